"""Exponential moving average of the weights."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from twotower.core.errors import UserError
from twotower.model.sharded_embedding import sharded_in


class WeightAverage(Callback):
    """Validates, saves and exports an exponential moving average of the weights (Polyak & Juditsky 1992).

    Training continues from the weights themselves, which checkpoints hold beside the average. After n updates the decay
    is at most (1 + n) / (10 + n), so the average soon forgets the beginning. Takes 4 bytes a weight; each update is a
    pass over all weights, so with optimizer=lazy_adamw use every_n_steps=10 or 100.

    >>> callback = WeightAverage(decay=0.999, every_n_steps=1)

    Args:
        decay: of the average, for each step.
        every_n_steps: steps between updates.

    Raises:
        UserError: values out of range; at the start of training, tables distributed over processes.
    """

    def __init__(self, decay: float, every_n_steps: int) -> None:
        if not 0 < decay < 1 or every_n_steps < 1:
            raise UserError(
                f"callbacks.weight_average: decay={decay}, every_n_steps={every_n_steps}; "
                "expected a decay between 0 and 1, and 1 step or more"
            )
        self.decay = decay
        self.every_n_steps = every_n_steps
        self._average: list[Tensor] = []  # of the module's parameters, in their order; empty outside training
        self._swapped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from the checkpoint's average."""
        if sharded_in(pl_module):
            raise UserError(
                "callbacks=ema averages whole tables: expected model.item_tower.sharded=false with it, or no average"
            )
        parameters = list(pl_module.parameters())
        start = self._average or parameters
        self._average = [a.detach().to(p.device, copy=True) for a, p in zip(start, parameters, strict=True)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average."""
        updates, rest = divmod(trainer.global_step, self.every_n_steps)
        if rest == 0:
            decay = min(self.decay**self.every_n_steps, (1 + updates) / (10 + updates))
            weights = [p.detach() for p in pl_module.parameters()]
            torch._foreach_lerp_(self._average, weights, 1 - decay)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self._average:
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the weights of training."""
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the weights of training after an interrupted validation, before LastCheckpoint saves."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average as the module's weights."""
        self._swap(pl_module)
        self._average, self._swapped = [], False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the checkpoint's weights, and the weights of training beside it."""
        if self._average:
            names = [name for name, _ in pl_module.named_parameters()]
            weights = checkpoint["state_dict"]
            checkpoint["training_weights"] = {name: weights[name] for name in names}
            checkpoint["state_dict"] = {**weights, **dict(zip(names, self._average, strict=True))}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load both, when training resumes."""
        self._average = [p.detach().clone() for p in pl_module.parameters()]  # Lightning has loaded it already
        with torch.no_grad():
            for name, parameter in pl_module.named_parameters():
                parameter.copy_(checkpoint["training_weights"][name])

    def _swap(self, pl_module: LightningModule) -> None:
        for average, parameter in zip(self._average, pl_module.parameters(), strict=True):
            average.data, parameter.data = parameter.data, average.data
        self._swapped = not self._swapped
