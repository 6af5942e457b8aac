"""Going on with a run: which one it is, who is at work in it, and when nothing is left to do."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from twotower.core.errors import UserError
from twotower.runs.checkpoint import previous_of
from twotower.runs.layout import CHECKPOINTS_FOLDER, CONFIG_FILE, LAST, METRICS_FILE, REFIT_LAST
from twotower.runs.run import load_config

LOCK_FILE = ".lock"  # in a run directory from its beginning to its end


def to_resume(config: DictConfig) -> Path | None:
    """The run that `config.resume` names; with `auto` the newest of this very configuration, if there is any.

    It may be finished, with `auto`: who types a command again wants it done, not done twice.

    Raises UserError where it names no run, or a finished one.
    """
    if not config.resume:
        return None
    if config.resume == "auto":
        own, same = Path(config.run_dir), _identity(OmegaConf.to_yaml(config, resolve=True))
        found = [file for file in (own / CONFIG_FILE, *own.parent.parent.glob(f"*/*/{CONFIG_FILE}")) if file.is_file()]
        found = [file for file in found if _identity(file.read_text(encoding="utf-8")) == same]
        free = [file for file in found if not _is_held(file.parent)]
        return max(free, key=lambda file: file.stat().st_mtime).parent if free else None
    path = Path(config.resume).resolve()
    load_config(path)
    if is_finished(path):
        raise UserError(f"{path} is finished; next: python export.py run={path}")
    return path


def is_finished(path: Path) -> bool:
    """Whether nothing is left to do in this run directory."""
    return (path / METRICS_FILE).exists() and not (path / LOCK_FILE).exists()


def _identity(text: str) -> Any:
    """What two runs of one command share of their configurations."""
    config = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(config, dict)
    where = str(config.pop("run_dir"))
    config.pop("resume", None)
    return json.dumps(config, sort_keys=True).replace(where, "")


def take_over(fresh: Path, path: Path) -> None:
    """Let the log of this process go on in the run that goes on, and delete the folder that it does not need."""
    if fresh.resolve() == path.resolve():
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == fresh.resolve():
            handler.close()
            Path(handler.baseFilename).unlink(missing_ok=True)
            handler.baseFilename = str((path / Path(handler.baseFilename).name).resolve())
    shutil.rmtree(fresh / ".hydra", ignore_errors=True)
    if fresh.is_dir() and not any(fresh.iterdir()):
        fresh.rmdir()


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile; raises UserError where somebody does."""
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is at work in {path}; wait for it, or stop it") from None
        try:
            yield
        finally:
            if not (path / CONFIG_FILE).exists():  # no run has begun: there is nothing to go on with
                (path / LOCK_FILE).unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    if not (path / LOCK_FILE).exists():
        return False
    try:
        with exclusive_lock(path):
            return False
    except UserError:
        return True


def clean(path: Path) -> None:
    """Delete what only an unfinished run needs: it is finished then."""
    for name in (LAST, REFIT_LAST):
        for file in (path / CHECKPOINTS_FOLDER / name, previous_of(path / CHECKPOINTS_FOLDER / name)):
            file.unlink(missing_ok=True)
    for folder in (path, path / CHECKPOINTS_FOLDER):
        for file in folder.glob(".*.[0-9]*"):  # that a kill left half-written
            if file.is_file():
                file.unlink()
    (path / LOCK_FILE).unlink()


def config_at(path: Path) -> DictConfig:
    """A run's configuration, with the folder where it is now in place of the one where it began."""
    config = load_config(path)
    began, now = str(config.run_dir), str(path)

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: moved(value) for key, value in node.items()}
        if isinstance(node, list):
            return [moved(value) for value in node]
        inside = isinstance(node, str) and (node == began or node.startswith(f"{began}/"))
        return now + node[len(began) :] if inside else node

    result: DictConfig = OmegaConf.create(moved(OmegaConf.to_container(config)))
    return result
