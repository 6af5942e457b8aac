"""Ctrl-C, SIGTERM and SIGUSR1 during training take effect between two batches."""

import signal
import threading
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.training.callbacks.last_checkpoint import STEPS_BETWEEN_DECISIONS


class Interruption(Callback):
    """Raises KeyboardInterrupt before the next batch of training or validation once a signal has come.

    A signal that raised at any time could end an epoch between two callbacks: one would know the epoch, the other not,
    and a run that resumes doesn't repeat it. A second signal raises at once. Several processes leave at one batch,
    whichever of them got the signal. Signals that don't raise KeyboardInterrupt today keep their handlers, and after
    training Lightning puts back those that it found.

    >>> Interruption().noted
    False
    """

    def __init__(self) -> None:
        self.noted = False
        main = threading.current_thread() is threading.main_thread()  # no other thread gets signals
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) if main else ()
        self._signals = [number for number in signals if signal.getsignal(number) is signal.default_int_handler]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the signals back, in place of Lightning's handlers, which end a validation without a checkpoint."""
        for number in self._signals:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Leave before the batch if a signal has come."""
        if trainer.world_size > 1 and batch_idx % STEPS_BETWEEN_DECISIONS:  # the decision is a collective operation
            return
        if trainer.strategy.reduce_boolean_decision(self.noted, all=False):
            raise KeyboardInterrupt

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave before the batch if a signal has come; several processes validate to the end."""
        if self.noted and trainer.world_size == 1:
            raise KeyboardInterrupt
