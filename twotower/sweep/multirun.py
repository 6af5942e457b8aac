"""What happens before a sweep's first trial and after its last one, in the process that was typed."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from twotower.core.distributed import process_count
from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.runs import resume
from twotower.runs.config_errors import explaining
from twotower.runs.run import load_config
from twotower.sweep.outcome import tell
from twotower.sweep.space import distributions, grid, settings_of, text_of, typed
from twotower.sweep.study import enqueue, open_study, unfinished
from twotower.sweep.trial import of_sweep
from twotower.tracking.logger import UNSENT_FILE
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)
SWEEP_FILE = "sweep.json"  # what a sweep was begun with; it goes on with nothing else
GROWS = ("trials", "trial", "pruner")  # what may be another when a sweep goes on


class Sweep(Callback):
    """Hydra's sweeper is told which trials are left, and runs them with any launcher."""

    _held: ClassVar = contextlib.ExitStack()  # a launcher sends callbacks to its workers, and locks can't be sent

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the sweep, or go on with it."""
        HydraConfig.instance().set_config(config)  # names may come from there
        with _explaining(config):
            left = begin(config, self._held)
        if not left:
            self.on_multirun_end(config)
            sys.exit(0)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweeper.params = {"sweep.trial": ",".join(map(str, left))}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Say what was found."""
        with self._held, _explaining(config):
            end(config)


@contextlib.contextmanager
def _explaining(config: DictConfig) -> Iterator[None]:
    """Leave with a status and a message: of what a callback raises Hydra would make a mere warning."""
    try:
        with explaining(str(config.hydra.job.config_name)):
            yield
    except Exception:
        log.exception("the sweep ends here")
        sys.exit(1)


def begin(config: DictConfig, held: contextlib.ExitStack) -> list[int]:
    """Make the study and the data, where they are not there yet.

    Returns:
        The numbers of the trials that are left.

    Raises:
        UserError: the sweep's folder is another sweep's, or in use.
    """
    if process_count() > 1:
        raise UserError("each trial of a sweep takes one process; leave torchrun out")
    for override in map(OverridesParser.create().parse_override, config.hydra.overrides.task):
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: beside sweep=... values to try are part of sweep.space")
    path = folder_of(config)
    held.enter_context(resume.exclusive_lock(path))
    asked = identity_of(config)
    if (path / SWEEP_FILE).exists():
        require_same(path, asked)
    points = grid(config.sweep.space) if config.sweep.trials is None else list(defaults_in(config))
    study = open_study(config.sweep, config.seed)
    write_json(path / SWEEP_FILE, asked)
    enqueue(study, config.sweep.trials or len(points), points)
    left = unfinished(study)
    if left:
        print(f"{path}: {len(study.trials)} trials, {len(left)} of them to do", flush=True)
        prepare(plain(config).data, config.accept)  # once, before the workers
        tracker = tracker_of(config)
        if tracker:
            tracker.log_hyperparams({"space": dict(settings_of(config.sweep.space))})
    return left


def end(config: DictConfig) -> None:
    """Table, page and experiment file; MLflow has it all, too."""
    path = folder_of(config)
    study = open_study(config.sweep, config.seed)
    overrides = [override for override in config.hydra.overrides.task if not of_sweep(override)]
    tell(study, path, list(config.sweep.objectives), overrides, config.hydra.runtime.choices)
    tracker = tracker_of(config)
    if tracker:
        for waiting in path.glob(f"*/{UNSENT_FILE}"):  # of trials that ended while MLflow was away
            if instantiate(load_config(waiting.parent).logger).keep():
                resume.clean(waiting.parent)
        tracker.adopt(str(path / str(trial.number)) for trial in study.trials)
        tracker.keep()
    resume.clean(path)


def folder_of(config: DictConfig) -> Path:
    """Where the sweep lies."""
    return Path(config.hydra.sweep.dir).resolve()


def plain(config: DictConfig) -> DictConfig:
    """The configuration of a run that is no trial."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("hydra", "sweep")])
    own.sweep, own.run_dir, own.resume = None, str(folder_of(config)), None
    return own


def identity_of(config: DictConfig) -> dict[str, Any]:
    """What makes it this sweep and no other."""
    own = plain(config)
    own.run_dir, own.logger = "", None  # it may be moved, and told to another server
    sweep: Any = OmegaConf.to_container(config.sweep, resolve=True)
    asked = {name: value for name, value in sweep.items() if name not in GROWS}
    return {"run": OmegaConf.to_container(own, resolve=True), "sweep": asked}


def require_same(path: Path, asked: dict[str, Any]) -> None:
    """Raise UserError where a sweep would go on with other settings than it was begun with."""
    began = read_json(path / SWEEP_FILE, "a sweep's folder")
    different = sorted(set(differences(began, asked)))
    if different:
        raise UserError(
            f"{path} is a sweep that was begun with other settings ({', '.join(different)}); "
            "give this one a name of its own: sweep.name=..."
        )


def differences(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """The settings whose values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name.removeprefix("run.")


def defaults_in(config: DictConfig) -> Iterator[dict[str, Any]]:
    """The settings as they are without a sweep, if its space has them all: what the others are compared with."""
    choices = config.hydra.runtime.choices
    values = {}
    for name, distribution in distributions(config.sweep.space).items():
        value = choices[name] if name in choices else OmegaConf.select(config, name, throw_on_missing=False)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        values[name] = typed(distribution, text_of(value))
    if all(value is not None for value in values.values()):
        yield values


def tracker_of(config: DictConfig) -> Any:
    """The sweep's own run in MLflow, or None."""
    if not config.logger:
        return None
    own = plain(config)
    own.logger.run_name, own.logger.system_metrics = config.sweep.name, False
    return instantiate(own.logger, tags={"sweep": config.sweep.name})
