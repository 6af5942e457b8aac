"""The optimiser in Lightning's training loop: sparse gradients, distributed tables, clipping, checkpoints."""

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule

from twotower.model.optimizers.clipping import clip_gradient_norm
from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.sharded_embedding import convert_moments, sharded_in
from twotower.model.two_tower import TwoTower


class OptimizedModule(LightningModule):
    """Base of TwoTowerModule: builds the model's optimiser, and keeps its state.

    Args:
        model: the towers.
        optimizer: (model, total_steps) -> (optimizer, scheduler).
        total_steps: length of the schedule; training may end earlier.
    """

    def __init__(self, model: TwoTower, optimizer: Callable[..., tuple[Any, Any]], total_steps: int) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.total_steps = total_steps

    def setup(self, stage: str) -> None:
        """Build the optimiser before DDP wraps the model: DDP needs to know which gradients it makes sparse."""
        if stage == "fit":
            self.optimization = self.optimizer(self.model, total_steps=self.total_steps)
            self._ddp_params_and_buffers_to_ignore = [f"model.{name}" for name in sharded_in(self.model)]  # read by DDP

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule by step."""
        optimizer, scheduler = self.optimization
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gather the optimiser's state of distributed tables into the first process's checkpoint."""
        if tables := sharded_in(self.model):
            convert_moments(tables, self.optimization[0], checkpoint, lambda table, moment: table.gather(moment))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's part of that state."""
        if tables := sharded_in(self.model):
            convert_moments(tables, self.optimization[0], checkpoint, lambda table, moment: table.scatter(moment))

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm also where Lightning's clipping can't.

        It supports neither sparse gradients nor distributed tables; and with bf16-mixed it refuses fused optimisers, as
        if gradients were scaled, which they are not in bfloat16.
        """
        sharded = {id(table.weight) for table in sharded_in(self.model).values()}
        by_norm = gradient_clip_val and gradient_clip_algorithm in (None, "norm")
        if by_norm and (sharded or isinstance(optimizer, LazyAdamW) or self.trainer.precision == "bf16-mixed"):
            clip_gradient_norm(self.model.parameters(), float(gradient_clip_val or 0), sharded)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
