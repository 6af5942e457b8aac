"""What happens around training: the last checkpoint, and how fast it went."""

import logging
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.batch import SessionBatch
from twotower.schema import PAD

log = logging.getLogger(__name__)


class LastCheckpoint(Callback):
    """Keeps the newest state after each validation and when training is interrupted, by Ctrl-C too."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless this is an evaluation outside training."""
        if trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what there is; a failed step leaves the one before."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            trainer.save_checkpoint(self.path)


class Throughput(Callback):
    """Counts target positions and seconds of training, validation left out; one line of log an epoch."""

    def __init__(self) -> None:
        self.positions = 0
        self.seconds = 0.0
        self._mark = 0.0

    def summary(self) -> dict[str, float]:
        """Seconds of training, and target positions a second."""
        return {"train/seconds": self.seconds, "train/positions_per_second": self.positions / max(self.seconds, 1e-9)}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SessionBatch, batch_idx: int
    ) -> None:
        """Add the batch, and the time since the one before."""
        self.positions += int((batch.target != PAD).sum()) * trainer.world_size
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out, and say where training stands."""
        self._mark = time.perf_counter()
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            shown = [f"{n} {values[n]:.4f}" for n in ("val/recall_at_20", "val/ndcg_at_20") if n in values]
            speed = self.summary()["train/positions_per_second"]
            log.info("epoch %d  %s  %s positions/s", trainer.current_epoch, "  ".join(shown), f"{speed:,.0f}")
