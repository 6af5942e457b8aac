"""Progress of training: validation metrics by epoch, speed, and the expected duration."""

import logging
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.core.batch import SessionBatch
from twotower.core.schema import PAD

log = logging.getLogger(__name__)
WARM_UP, SAMPLE = 10, 40  # steps
LOGGED = ("val/recall_at_20", "val/ndcg_at_20")  # after each epoch


class Progress(Callback):
    """Keeps each epoch's validation metrics, and counts target positions and seconds of training without validation.

    Logs the expected duration once, estimated from SAMPLE steps after WARM_UP slower ones.

    >>> Progress().summary()["train/seconds"]
    0.0
    """

    def __init__(self) -> None:
        self.validated: dict[int, dict[str, float]] = {}  # metrics by epoch
        self.positions = 0
        self.seconds = 0.0
        self._previous = 0.0  # clock at the end of the step before
        self._steps = 0  # since training started or resumed
        self._sample_start = 0.0  # seconds of training when the sample began

    def summary(self) -> dict[str, float]:
        """Seconds of training, and target positions a second."""
        return {"train/seconds": self.seconds, "train/positions_per_second": self.positions / max(self.seconds, 1e-9)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._previous = time.perf_counter()

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SessionBatch, batch_idx: int
    ) -> None:
        """Count the batch, and the time since the one before."""
        self.positions += int((batch.target != PAD).sum()) * trainer.world_size
        now = time.perf_counter()
        self.seconds += now - self._previous
        self._previous = now
        self._steps += 1
        if self._steps == WARM_UP:
            self._sample_start = self.seconds
        elif self._steps == WARM_UP + SAMPLE:
            steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
            minutes = (self.seconds - self._sample_start) / SAMPLE * steps / 60
            log.info("about %.1f min of training for all %d epochs, without validation", minutes, trainer.max_epochs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out of the time."""
        self._previous = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the validation metrics, and log the epoch."""
        values = {key: float(v) for key, v in trainer.callback_metrics.items() if key.startswith("val/")}
        self.validated[trainer.current_epoch] = values
        logged = [f"{name} {values[name]:.4f}" for name in LOGGED if name in values]
        speed = f"{self.summary()['train/positions_per_second']:,.0f} positions/s"
        log.info("epoch %d  %s", trainer.current_epoch, "  ".join([*logged, speed]))

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run continues from."""
        return {"validated": self.validated, "positions": self.positions, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.validated = dict(state_dict["validated"])
        self.positions, self.seconds = state_dict["positions"], state_dict["seconds"]
