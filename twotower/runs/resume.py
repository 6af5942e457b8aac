"""Resume a run: which one, with which configuration, and when it is finished."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from twotower.core.command_line import command, in_this_folder, override
from twotower.core.errors import UserError
from twotower.core.nested import leaves
from twotower.runs.checkpoint import previous_of
from twotower.runs.layout import CHECKPOINTS_FOLDER, CONFIG_FILE, LAST, LOCK_FILE, METRICS_FILE, REFIT_LAST
from twotower.runs.lock import is_locked
from twotower.runs.run import load_config


def run_to_resume(resume: str | None, run_dir: Path, config_text: str) -> Path | None:
    """Return the run that `resume` names, or None to start a new one.

    Args:
        resume: a run directory; or "auto": the newest run with the same configuration, finished or not, which no
            other process is at work in; or None.
        run_dir: the new run's directory.
        config_text: the new run's resolved configuration, as YAML.

    Raises:
        UserError: `resume` is no run directory, or that of a finished run.
    """
    if not resume:
        return None
    if resume == "auto":
        files = [run_dir / CONFIG_FILE, *run_dir.parent.parent.glob(f"*/*/{CONFIG_FILE}")]
        identity = _identity(config_text)
        same = [file for file in files if file.is_file() and _identity(file.read_text(encoding="utf-8")) == identity]
        free = [file for file in same if not is_locked(file.parent)]
        return max(free, key=lambda file: file.stat().st_mtime).parent if free else None
    path = Path(resume).resolve()
    load_config(path)
    if is_finished(path):
        raise UserError(f"{path} is finished; next: {command('export', override('run', path))}")
    return path


def resume_command(path: Path) -> str:
    """Shell line that resumes the run in directory `path`."""
    return in_this_folder(command("train", override("resume", path.resolve())))


def is_finished(path: Path) -> bool:
    """Whether the run in directory `path` has nothing left to do."""
    return (path / METRICS_FILE).exists() and not (path / LOCK_FILE).exists()


def mark_finished(path: Path) -> None:
    """Delete the files that only an unfinished run needs, the lock's last."""
    for name in (LAST, REFIT_LAST):
        for file in (path / CHECKPOINTS_FOLDER / name, previous_of(path / CHECKPOINTS_FOLDER / name)):
            file.unlink(missing_ok=True)
    for folder in (path, path / CHECKPOINTS_FOLDER):
        for file in folder.glob(".*.[0-9]*"):  # temporary files that a kill left behind
            if file.is_file():
                file.unlink()
    (path / LOCK_FILE).unlink()


def continue_log(fresh: Path, path: Path) -> None:
    """Let this process log into the resumed run's directory `path`, and delete the unused directory `fresh`."""
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


def resumed_config(path: Path) -> DictConfig:
    """Return a run's configuration with the run's present directory wherever it names the original one."""
    config = load_config(path)
    began = str(config.run_dir)
    for name, value in leaves(OmegaConf.to_container(config)):
        if isinstance(value, str) and (value == began or value.startswith(f"{began}/")):
            OmegaConf.update(config, name, f"{path}{value[len(began) :]}")
    return config


def _identity(config_text: str) -> str:
    """The part of a configuration that two runs of one command share."""
    config: Any = OmegaConf.to_container(OmegaConf.create(config_text))
    run_dir = str(config.pop("run_dir"))
    config.pop("resume", None)
    return json.dumps(config, sort_keys=True).replace(run_dir, "")
