"""Checkpoint of the newest state of training, from which an interrupted run resumes."""

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from twotower.runs.checkpoint import previous_of

STEPS_BETWEEN_DECISIONS = 20  # with several processes, which have to agree


class LastCheckpoint(Checkpoint):
    """Saves the newest state every few minutes, after each epoch, and when training is interrupted.

    The checkpoint before it is kept, too: a run resumes from that if the newest is damaged. As a Checkpoint it runs
    after all other callbacks, so it saves their state at the end of an epoch, too. The state of the random generators
    is part of it: a resumed run draws the same numbers.

    >>> callback = LastCheckpoint(Path("run/checkpoints/last.ckpt"), every_minutes=10)

    Args:
        path: of the file.
        every_minutes: about the longest training time that is lost when the process is killed.
    """

    def __init__(self, path: Path, every_minutes: float) -> None:
        self.path = path
        self.every_minutes = every_minutes
        self._saved = time.monotonic()
        self._random: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random generators of the checkpoint, and start the clock."""
        if self._random:
            torch.set_rng_state(self._random["cpu"])
            for device, state in enumerate(self._random["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the time is up."""
        if trainer.world_size > 1 and batch_idx % STEPS_BETWEEN_DECISIONS:  # the decision is a collective operation
            return
        late = time.monotonic() - self._saved > 60 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(late, all=False) and not trainer.is_last_batch:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save; the file that was the newest becomes the previous one."""
        if self.path.exists() and trainer.is_global_zero:
            self.path.replace(previous_of(self.path))
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of the random generators."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["random"] = {"cpu": torch.get_rng_state(), "cuda": cuda}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random generators until training starts."""
        self._random = checkpoint["random"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the loader's epoch: Lightning restores its state only in the middle of an epoch."""
        loader: Any = trainer.train_dataloader
        loader.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, after all other callbacks have processed the epoch's validation."""
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save after Ctrl-C or SIGTERM; the interrupted batch or validation is repeated as a whole."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.train_dataloader:
            loop: Any = trainer.fit_loop.epoch_loop
            trainer.train_dataloader.next_batch = loop.batch_progress.current.processed
            if trainer.validating:  # else Lightning would resume in the middle of it, without the sums so far
                progress = loop.val_loop.batch_progress
                progress.reset()
                progress.increment_ready()
                progress.increment_started()
            self.save(trainer)
