"""TwoTowerModule: how towers, negatives, loss and metrics meet in a training step. Wiring only."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from twotower.batch import SessionBatch
from twotower.evaluation.metrics import RankingMetrics
from twotower.evaluation.ranks import queries_of, rank_by_dot_product
from twotower.model.scoring import Logits, score
from twotower.model.two_tower import TwoTower


class TwoTowerModule(LightningModule):
    """Trains a TwoTower.

    Args:
        model: the towers.
        negatives: [P] targets -> Negatives.
        loss: Logits -> [P].
        temperature: divides similarities.
        optimizer: (model, total_steps) -> (optimizer, scheduler).
        total_steps: the schedule's length; training may end before.
        ks: cut-offs of the metrics.
        event_types: names by code.
    """

    def __init__(
        self,
        model: TwoTower,
        negatives: nn.Module,
        loss: Callable[[Logits], Tensor],
        temperature: float,
        optimizer: Callable[..., tuple[Any, Any]],
        total_steps: int,
        ks: Sequence[int],
        event_types: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.negatives = negatives
        self.loss = loss
        self.temperature = temperature
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.metrics = RankingMetrics(ks, event_types)
        self.item_vectors = torch.empty(0)  # [V + 1, D] of the evaluation under way, by item_index

    def training_step(self, batch: SessionBatch, batch_index: int) -> Tensor:
        """Mean loss over all targets of the batch, each with the size of its weight."""
        is_target = batch.target_weight != 0
        target, weight = batch.target[is_target], batch.target_weight[is_target]
        negatives = self.negatives(target)
        # Each item that the step needs, in a history, as a target or as a negative, is encoded once.
        ids = [batch.item_index.flatten(), target, negatives.ids]
        distinct, row = torch.unique(torch.cat(ids), return_inverse=True)
        vectors = F.embedding(row, self.model.item_tower(distinct))
        history, target_vector, negative_vector = torch.split(vectors, [len(i) for i in ids])
        user = self.model.encode_history(history.view(*batch.item_index.shape, -1), batch.inputs)[is_target]
        logits = score(user, target_vector, negative_vector, target, weight.sign(), negatives, self.temperature)
        size = weight.abs()
        loss: Tensor = (size * self.loss(logits)).sum() / size.sum().clamp(min=torch.finfo(size.dtype).tiny)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(target))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Encode the catalogue once for all batches."""
        self.item_vectors = F.pad(self.model.encode_items(), (0, 0, 1, 0))  # PAD is the zero vector

    def validation_step(self, batch: SessionBatch, batch_index: int) -> None:
        """Rank every query's target among the whole catalogue."""
        queries = queries_of(batch)
        history = F.embedding(batch.item_index, self.item_vectors)
        user = self.model.encode_history(history, batch.inputs)[queries.row, queries.position]
        self.metrics.update(rank_by_dot_product(user, self.item_vectors[1:], queries.target), queries.target_type)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all ranks."""
        self._log_metrics("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all ranks."""
        self._log_metrics("test")

    def configure_optimizers(self) -> Any:
        """The optimiser, and its schedule by step."""
        optimizer, scheduler = self.optimizer(self.model, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log_metrics(self, part: str) -> None:
        self.log_dict({f"{part}/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()
        self.item_vectors = torch.empty(0)
