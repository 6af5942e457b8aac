"""Refit: after validation has picked the epoch, train a new model on training + validation data."""

import logging
from collections.abc import Callable
from pathlib import Path

from twotower.runs.layout import CHECKPOINTS_FOLDER, REFIT, REFIT_LAST
from twotower.training.processes import on_first_process

log = logging.getLogger(__name__)


def refit(path: Path, epochs: int, train: Callable[[Path], object]) -> None:
    """Train for a known number of epochs, unless the run directory `path` has a refit model already.

    Args:
        path: the run directory.
        epochs: how many; for the log.
        train: trains on from the checkpoint that it is given, if that exists, and leaves its last one there.
    """
    folder = path / CHECKPOINTS_FOLDER
    if not on_first_process((folder / REFIT).exists):
        log.info("refit on training + validation data, epochs: %d", epochs)
        train(folder / REFIT_LAST)
        on_first_process(lambda: (folder / REFIT_LAST).rename(folder / REFIT))
