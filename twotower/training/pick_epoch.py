"""Pick the epoch: train with validation and keep the one that validates best.

What "best" means is set in conf/callbacks/default.yaml (best_checkpoint.monitor: val/ndcg_at_20).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from twotower.core.files import read_json, write_json
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.layout import BEST, CHECKPOINTS_FOLDER, FITTED_FILE, LAST
from twotower.training.callbacks.progress import Progress
from twotower.training.processes import on_first_process


class PickedEpoch(NamedTuple):
    """The outcome of training with validation, as FITTED_FILE holds it.

    >>> validated = {0: {"val/ndcg_at_20": 0.1}, 1: {"val/ndcg_at_20": 0.2}}
    >>> PickedEpoch(1, {"train/seconds": 9.0}, validated).metrics()
    {'val/ndcg_at_20': 0.2, 'best_epoch': 1, 'train/seconds': 9.0}
    """

    best_epoch: int
    summary: dict[str, float]  # of training: `train/seconds` and so on
    validated: dict[int, dict[str, float]]  # metrics by epoch

    def metrics(self) -> dict[str, float]:
        """Metrics of the picked epoch, its number, and the summary of training."""
        return self.validated[self.best_epoch] | {"best_epoch": self.best_epoch} | self.summary


def pick_epoch(path: Path, train: Callable[[Path], Progress]) -> PickedEpoch:
    """Train with validation, unless the run directory `path` has FITTED_FILE already.

    Args:
        path: the run directory.
        train: trains on from the checkpoint that it is given, if that exists.
    """
    file = path / FITTED_FILE
    if not on_first_process(file.exists):
        progress = train(path / CHECKPOINTS_FOLDER / LAST)

        def write() -> None:
            best = read_checkpoint(path / CHECKPOINTS_FOLDER / BEST)["epoch"]
            write_json(file, {"best_epoch": best, "summary": progress.summary(), "validated": progress.validated})

        on_first_process(write)
    content = on_first_process(lambda: read_json(file, "a run directory"))
    validated = {int(epoch): metrics for epoch, metrics in content["validated"].items()}
    return PickedEpoch(content["best_epoch"], content["summary"], validated)
