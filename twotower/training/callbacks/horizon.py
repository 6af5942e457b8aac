"""Metrics within the horizon at each validation."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.data.horizon import NEXT, events_ahead
from twotower.evaluation.horizon_metrics import values_by_type


class HorizonMetrics(Callback):
    """Logs `val/horizon/ndcg_at_20`, `val/horizon/purchase/ndcg_at_20` and so on, which others may monitor.

    Validation then finds lists, too, which takes it about twice as long; with `next` it logs nothing.

    >>> callback = HorizonMetrics(horizon="session", ks=[20])

    Args:
        horizon: see data.horizon.events_ahead.
        ks: cut-offs.
    """

    def __init__(self, horizon: str | float, ks: Sequence[int]) -> None:
        self.horizon = horizon
        self.ks = list(ks)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have lists kept."""
        module: Any = pl_module
        module.keeps_results = self.horizon != NEXT

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the means over all processes' queries, and log them."""
        module: Any = pl_module
        loader: Any = trainer.val_dataloaders
        ahead = events_ahead(self.horizon, loader.prepared, loader.prepared.validation_end)
        if ahead is not None:
            results = module.results()
            data, lists = loader.prepared, {"model": results.top}
            for prefix, _, values in values_by_type(lists, results.event, ahead, data, loader.weights, self.ks):
                named = {f"val/horizon/{prefix}{name}": value.mean() for name, value in values["model"].items()}
                pl_module.log_dict(named)
