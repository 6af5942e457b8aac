"""TwoTowerModule: how towers, negatives, loss and metrics meet in a training step. Wiring only."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from twotower.batch import SessionBatch
from twotower.evaluation.metrics import RankingMetrics
from twotower.evaluation.ranks import queries_of, rank_by_dot_product
from twotower.model.scoring import Logits, score
from twotower.model.two_tower import TwoTower
from twotower.schema import PAD


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
        self.catalogue = torch.empty(0)  # [V, D] item vectors of the evaluation under way

    def training_step(self, batch: SessionBatch, batch_index: int) -> Tensor:
        """Mean loss over all targets of the batch."""
        is_query = batch.target != PAD
        target = batch.target[is_query]
        negatives = self.negatives(target)
        # One pass through the item tower for all that the step needs: inputs, targets, negatives.
        ids = [batch.item_index.flatten(), target, negatives.ids]
        inputs, target_vector, negative_vector = self.model.item_tower(torch.cat(ids)).split([len(i) for i in ids])
        user = self.model.user_tower(inputs.view(*batch.item_index.shape, -1))[is_query]
        logits = score(user, target_vector, negative_vector, target, negatives, self.temperature)
        loss = self.loss(logits).sum() / max(1, len(target))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(target))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Encode the catalogue once for all batches."""
        self.catalogue = self.model.encode_items()

    def validation_step(self, batch: SessionBatch, batch_index: int) -> None:
        """Rank every query's target among the whole catalogue."""
        queries = queries_of(batch)
        user = self.model.user_tower(self.model.item_tower(batch.item_index))[queries.row, queries.position]
        self.metrics.update(rank_by_dot_product(user, self.catalogue, queries.target), queries.target_type)

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
        self.catalogue = torch.empty(0)
