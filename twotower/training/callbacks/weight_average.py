"""Exponential moving average of the weights."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from twotower.core.errors import UserError
from twotower.model.sharded_embedding import sharded_in


class WeightAverage(WeightAveraging):
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

        super().__init__(use_buffers=False, multi_avg_fn=self._update)
        self.decay = decay
        self.every_n_steps = every_n_steps
        self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start from a copy of the weights."""
        if sharded_in(pl_module):
            raise UserError(
                "callbacks=ema averages whole tables: expected model.item_tower.sharded=false with it, or no average"
            )
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the device of the weights, which is known only now; its counter stays on the CPU."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update the average after this step."""
        return step_idx is not None and (step_idx + 1) % self.every_n_steps == 0

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the weights of training after an interrupted validation, before LastCheckpoint saves."""
        if self._swapped:
            self._swap_models(pl_module)

    def _update(self, average: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        updates = self._latest_update_step // self.every_n_steps  # known without asking the device
        keep = min(self.decay**self.every_n_steps, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(average, weights, 1 - keep)

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped
