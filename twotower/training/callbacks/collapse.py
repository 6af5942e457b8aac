"""Collapse check at each validation: NaN or inf weights, equal vectors, equal lists, popularity alone."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from twotower.core.batch import SessionBatch
from twotower.metrics.collapse import collapse_metrics, collapse_warnings
from twotower.metrics.ranking_results import LIST_LENGTH
from twotower.metrics.ranks import rank_and_list

log = logging.getLogger(__name__)
SAMPLED_QUERIES = 1024


class CollapseCheck(Callback):
    """Logs collapse metrics of each validation as `val/effective_rank` and so on, and warns.

    They are computed from the first SAMPLED_QUERIES queries, with lists of LIST_LENGTH items.

    >>> callback = CollapseCheck(stop=True)

    Args:
        stop: end training after the first warning.
    """

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self._counts = torch.empty(0)
        self._sample: list[tuple[Tensor, Tensor]] = []  # user vectors [q, D] and lists of each batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the items' popularity from the training data."""
        loader: Any = trainer.train_dataloader
        self._counts = torch.from_numpy(loader.target_counts())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SessionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample the queries of the first batches."""
        if len(self._counts) and sum(len(user) for user, _ in self._sample) < SAMPLED_QUERIES:
            module: Any = pl_module
            queries, user, changes = module.encode_queries(batch)
            lists = rank_and_list(user, module.candidates[0], queries.target, LIST_LENGTH, changes)[1]
            self._sample.append((user.float(), lists))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the metrics, log, warn and stop."""
        if not self._sample:
            return
        module: Any = pl_module
        user, lists = (torch.cat(parts)[:SAMPLED_QUERIES] for parts in zip(*self._sample, strict=True))
        items = module.candidates[0].float()
        self._sample = []
        warnings = ["weights contain NaN or inf: a smaller optimizer.learning_rate may help"]
        if items.isfinite().all() and user.isfinite().all():
            metrics = collapse_metrics(items, user, lists, self._counts.to(items.device))
            pl_module.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=True)
            warnings = collapse_warnings(metrics, items.shape[1])
        for warning in warnings:
            log.warning("epoch %d  %s", trainer.current_epoch, warning)
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(warnings), all=False):
            trainer.should_stop = True
