"""Resume a run: which one, with which configuration, and when it is finished."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from twotower.core.command_line import command, in_this_folder, override
from twotower.core.errors import UserError
from twotower.core.nested import leaves
from twotower.core.schema import Prepared
from twotower.runs.checkpoint import previous_of
from twotower.runs.identity import differing_settings, listed
from twotower.runs.layout import CHECKPOINTS_FOLDER, CONFIG_FILE, INITIAL, LAST, LOCK_FILE, METRICS_FILE, REFIT_LAST
from twotower.runs.lock import exclusive_lock
from twotower.runs.run import differing_data, load_config


def runs_to_go_on_with(resume: str | None, new: Path, asked: DictConfig) -> list[Path]:
    """Return the runs that a command may mean, as far as their settings tell; claim_run chooses by their data.

    Args:
        resume: a run directory; or "auto": any run of the same settings beside the new one, the newest first; or None.
        new: the directory that the command names, or that was made for it.
        asked: the command's configuration.

    Raises:
        UserError: `resume` is no run directory, or that of a finished run; or `new` holds something else.
    """
    if resume and resume != "auto":
        path = Path(resume).resolve()
        load_config(path)
        if is_finished(path):
            raise UserError(f"{path} is finished; next: {command('export', override('run', path))}")
        return [path]
    files = {new / CONFIG_FILE, *(new.parent.parent.glob(f"*/*/{CONFIG_FILE}") if resume else ())}
    same = [f for f in files if f.is_file() and not differing_settings(f.read_text(encoding="utf-8"), asked)]
    if not same:
        refuse_other_run(new, asked)
    return [file.parent for file in sorted(same, key=lambda file: file.stat().st_mtime, reverse=True)]


def claim_run(runs: list[Path], new: Path, asked: DictConfig, prepared: Prepared, locks: ExitStack) -> Path:
    """Return the first of `runs` that has the same data and that no other process is at work in, else `new`.

    A new run is locked when it begins: a command that is killed before leaves no lock.

    Args:
        runs: of the same settings.
        new: the directory of a new run.
        asked: the command's configuration.
        prepared: its data.
        locks: keeps the lock on an unfinished run that is resumed.

    Raises:
        UserError: a run is there with other data, or another process is at work.
    """
    for path in runs:
        if path == new or asked.resume != "auto":
            refuse_other_data(path, prepared, asked)
        elif differing_data(path, prepared):
            continue
        if is_finished(path):
            return path
        try:
            locks.enter_context(exclusive_lock(path))
        except UserError:
            if path == new or asked.resume != "auto":
                raise
        else:
            return path
    refuse_other_run(new, asked)
    return new


def refuse_other_run(path: Path, asked: DictConfig) -> None:
    """Raise UserError where the folder `path` holds a run of other settings, or an evaluation."""
    file = path / CONFIG_FILE
    if file.is_file() and (lines := differing_settings(file.read_text(encoding="utf-8"), asked)):
        raise UserError(f"{path} holds a run with other settings ({listed(lines)}); {_ways_out(path)}")
    if not file.is_file() and (path / METRICS_FILE).exists():
        raise UserError(f"{path} holds an evaluation; {_ways_out(path)}")


def refuse_other_data(path: Path, prepared: Prepared, asked: DictConfig) -> None:
    """Raise UserError where the run in directory `path` began with other data."""
    if changed := differing_data(path, prepared):
        lines = differing_settings((path / CONFIG_FILE).read_text(encoding="utf-8"), asked, of_data=True)
        why = listed(lines) or "the same settings, so the content of the files has changed"
        raise UserError(f"{path} holds a run with other data ({changed}; {why}); {_ways_out(path)}")


def _ways_out(path: Path) -> str:
    """What to do about a folder that holds something else."""
    ways = ["name another folder (hydra.run.dir=...)", "delete it"]
    if (path / CONFIG_FILE).is_file() and not is_finished(path):
        ways.insert(1, f"go on with the run as it began ({resume_command(path)})")
    return ", or ".join(ways)


def resume_command(path: Path) -> str:
    """Shell line that resumes the run in directory `path`."""
    return in_this_folder(command("train", override("resume", path.resolve())))


def is_finished(path: Path) -> bool:
    """Whether the run in directory `path` has nothing left to do."""
    return (path / METRICS_FILE).exists() and not (path / LOCK_FILE).exists()


def mark_finished(path: Path) -> None:
    """Delete the files that only an unfinished run needs, the lock's last."""
    for name in (INITIAL, LAST, REFIT_LAST):
        for file in (path / CHECKPOINTS_FOLDER / name, previous_of(path / CHECKPOINTS_FOLDER / name)):
            file.unlink(missing_ok=True)
    (path / LOCK_FILE).unlink()


def continue_log(fresh: Path, path: Path) -> None:
    """Let this process log into the resumed run's directory `path`, and delete the unused directory `fresh`."""
    if fresh.resolve() == path.resolve():
        return
    for handler in _log_handlers(fresh):
        handler.close()
        Path(handler.baseFilename).unlink(missing_ok=True)
        handler.baseFilename = str((path / Path(handler.baseFilename).name).resolve())
    if fresh.is_dir() and not any(fresh.iterdir()):
        fresh.rmdir()


@contextmanager
def removed_unless_begun(path: Path) -> Iterator[None]:
    """After a mistake of the user or an interruption, delete the folder `path` if it holds nothing but this log."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, KeyboardInterrupt):
        handlers = _log_handlers(path)
        logs = {Path(handler.baseFilename) for handler in handlers}
        if path.is_dir() and {file.resolve() for file in path.iterdir()} <= logs and path.resolve() != Path.cwd():
            for handler in handlers:
                logging.getLogger().removeHandler(handler)
                handler.close()
            shutil.rmtree(path)
        raise


def _log_handlers(path: Path) -> list[logging.FileHandler]:
    """The handlers of this process that write into the folder `path`."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    return [handler for handler in handlers if Path(handler.baseFilename).parent == path.resolve()]


def resumed_config(path: Path) -> DictConfig:
    """Return a run's configuration with the run's present directory wherever it names the original one."""
    config = load_config(path)
    began = str(config.run_dir)
    for name, value in leaves(OmegaConf.to_container(config)):
        if isinstance(value, str) and (value == began or value.startswith(f"{began}/")):
            OmegaConf.update(config, name, f"{path}{value[len(began) :]}")
    return config
