"""What happens around training: the last checkpoint, and how fast it went."""

import logging
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from twotower.batch import SessionBatch
from twotower.schema import PAD

log = logging.getLogger(__name__)
SHOWN = ("val/recall_at_20", "val/ndcg_at_20")


class LastCheckpoint(Checkpoint):
    """Keeps the newest state after each epoch and when training is interrupted, by Ctrl-C too.

    Being a Checkpoint it comes after the other callbacks, so that it keeps what they have learnt of the epoch.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loader: Lightning restores its state in the middle of an epoch only."""
        loader: Any = trainer.train_dataloader
        loader.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, once all others have seen the epoch's validation."""
        trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save after Ctrl-C; the batch or the validation that was under way will come again, whole."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.train_dataloader:
            loop: Any = trainer.fit_loop.epoch_loop
            trainer.train_dataloader.next_batch = loop.batch_progress.current.processed
            if trainer.validating:  # else Lightning would go on in its middle, without the sums so far
                progress = loop.val_loop.batch_progress
                progress.reset()
                progress.increment_ready()
                progress.increment_started()
            trainer.save_checkpoint(self.path)


class Progress(Callback):
    """Keeps each epoch's validation metrics, and counts target positions and seconds of training alone."""

    def __init__(self) -> None:
        self.validated: dict[int, dict[str, float]] = {}
        self.positions = 0
        self.seconds = 0.0
        self._mark = 0.0

    def summary(self) -> dict[str, float]:
        """Seconds of training, and target positions a second."""
        return {"train/seconds": self.seconds, "train/positions_per_second": self.positions / max(self.seconds, 1e-9)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SessionBatch, batch_idx: int
    ) -> None:
        """Add the batch, and the time since the one before."""
        self.positions += int((batch.target != PAD).sum()) * trainer.world_size
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out of the time."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the validation's metrics, and say where training stands."""
        values = {key: float(v) for key, v in trainer.callback_metrics.items() if key.startswith("val/")}
        self.validated[trainer.current_epoch] = values
        shown = [f"{name} {values[name]:.4f}" for name in SHOWN if name in values]
        speed = f"{self.summary()['train/positions_per_second']:,.0f} positions/s"
        log.info("epoch %d  %s", trainer.current_epoch, "  ".join([*shown, speed]))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on counting from."""
        return {"validated": self.validated, "positions": self.positions, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validated = dict(state_dict["validated"])
        self.positions, self.seconds = state_dict["positions"], state_dict["seconds"]
