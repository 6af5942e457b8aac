"""Start, resume and end a sweep: Hydra's callback in the process that the user started, around all trials."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from twotower.core.command_line import command, in_this_folder
from twotower.core.distributed import process_count
from twotower.core.errors import UserError, nearest
from twotower.core.files import read_json, write_json
from twotower.core.nested import has, leaves
from twotower.runs import resume
from twotower.runs.config_errors import explaining
from twotower.runs.config_folder import CONF, choices_by_group
from twotower.runs.identity import NOT_COUNTED, differences, is_in, listed
from twotower.runs.lock import exclusive_lock
from twotower.runs.run import load_config
from twotower.sweep.space import distributions, grid, parse_value, settings_of, text_of
from twotower.sweep.study import SWEEP_FILE, enqueue, open_study, unfinished
from twotower.sweep.sweep_report import report_sweep
from twotower.sweep.trial import is_of_sweep
from twotower.tracking.logger import UNSENT_FILE
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)
MAY_CHANGE = ("trials", "trial", "pruner")  # settings that may differ when a sweep is resumed


class Plan(NamedTuple):
    """A sweep as it was asked for."""

    path: Path  # of the sweep's folder
    sweep: DictConfig  # the configuration's group of that name
    shared: DictConfig  # the configuration of a run that is no trial
    hydra: DictConfig


class Sweep(Callback):
    """Gives Hydra's sweeper the trials that are left, which any launcher runs, and reports at the end."""

    # Of the class, as a launcher sends callbacks to its workers, and locks can't be sent.
    _lock: ClassVar = contextlib.ExitStack()
    _plan: ClassVar[Plan]

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the sweep, or resume it."""
        HydraConfig.instance().set_config(config)  # names in the configuration may refer to it
        path = Path(config.hydra.sweep.dir).resolve()
        shared = OmegaConf.masked_copy(config, [str(key) for key in config if key not in ("hydra", "sweep")])
        shared.sweep, shared.run_dir, shared.resume = None, str(path), None
        plan = Plan(path, config.sweep, shared, config.hydra)
        type(self)._plan = plan
        with _exit_on_error(config.hydra.job.config_name):
            left = start(plan, self._lock)
        if not left:
            self.on_multirun_end()
            sys.exit(0)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweeper.params = {"sweep.trial": ",".join(map(str, left))}

    def on_multirun_end(self, *_: Any, **kwargs: Any) -> None:
        """Report the results."""
        with self._lock, _exit_on_error(self._plan.hydra.job.config_name):
            end(self._plan)


@contextlib.contextmanager
def _exit_on_error(config_name: str) -> Iterator[None]:
    """Exit with a status and a message; Hydra would turn an exception of a callback into a mere warning."""
    try:
        with explaining(config_name):
            yield
    except Exception:
        log.exception("the sweep ends here")
        sys.exit(1)


def start(plan: Plan, lock: contextlib.ExitStack) -> list[int]:
    """Create the study, and prepare the data, where that is not done yet; `lock` keeps the lock on the sweep's folder.

    Returns:
        The numbers of the trials that are left.

    Raises:
        UserError: the sweep's folder is that of another sweep, or in use.
    """
    if process_count() > 1:
        raise UserError("each trial of a sweep takes one process; leave torchrun out")
    for override in map(OverridesParser.create().parse_override, plan.hydra.overrides.task):
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: with sweep=..., values to try belong in sweep.space")
    lock.enter_context(exclusive_lock(plan.path))
    settings = plan.sweep
    require_same_settings(plan.path, identity(plan))
    folders = [CONF, *map(Path, typed_command(plan.hydra)["config_folders"])]
    require_known_settings(settings.space, _plain(plan.shared), folders)
    points = grid(settings.space) if settings.trials is None else list(default_point(plan))
    prepared = prepare(plan.shared.data, plan.shared.accept)  # once, before the workers
    asked = {**identity(plan), "data_fingerprint": prepared.manifest["fingerprint"]}
    require_same_settings(plan.path, asked)
    study = open_study(settings, plan.shared.seed)
    write_json(plan.path / SWEEP_FILE, {**asked, "command": typed_command(plan.hydra)})
    enqueue(study, settings.trials or len(points), points)
    left = unfinished(study)
    if left:
        print(f"{plan.path}: {len(study.trials)} trials, {len(left)} of them to do", flush=True)
        logger = mlflow_logger(plan)
        if logger:
            logger.log_hyperparams({"space": dict(settings_of(settings.space))})
    return left


def end(plan: Plan) -> None:
    """Print and write the report, and send what is left to MLflow."""
    report_sweep(plan.path)
    logger = mlflow_logger(plan)
    if logger:
        for unsent in plan.path.glob(f"*/{UNSENT_FILE}"):  # of trials that ended while MLflow could not be reached
            if instantiate(load_config(unsent.parent).logger).keep():
                resume.mark_finished(unsent.parent)
        logger.keep()
    resume.mark_finished(plan.path)


def typed_command(hydra: DictConfig) -> dict[str, Any]:
    """What the report needs of the command line: the line itself, overrides of trials, groups, and config folders."""
    folders = [s.path for s in hydra.runtime.config_sources if s.schema == "file" and s.provider != "main"]
    return {
        "line": in_this_folder(command("train", *sys.argv[1:])),
        "overrides": [override for override in hydra.overrides.task if not is_of_sweep(override)],
        "groups": sorted(hydra.runtime.choices),
        "config_folders": [str(Path(folder).resolve()) for folder in folders],
    }


def identity(plan: Plan) -> dict[str, Any]:
    """The settings that tell this sweep from others; its folder and MLflow server may change."""
    sweep, shared = (OmegaConf.to_container(part, resolve=True) for part in (plan.sweep, plan.shared))
    assert isinstance(sweep, dict) and isinstance(shared, dict)
    shared |= {"run_dir": "", "logger": None}
    return {"run": shared, "sweep": {name: value for name, value in sweep.items() if name not in MAY_CHANGE}}


def require_same_settings(path: Path, asked: dict[str, Any]) -> None:
    """Raise UserError where the folder `path` is that of a sweep with other settings."""
    if not (path / SWEEP_FILE).exists():
        return
    began = read_json(path / SWEEP_FILE, "a sweep's folder")
    one, other = (dict(leaves({key: content.get(key) for key in asked})) for content in (began, asked))
    changed = {name.removeprefix("run."): line for name, line in differences(one, other).items()}
    lines = [line.removeprefix("run.") for name, line in changed.items() if not is_in(name, NOT_COUNTED)]
    if lines:
        raise UserError(
            f"{path} is a sweep that was begun with other settings or data ({listed(lines)}); "
            "give this one a name of its own: sweep.name=..., or delete that folder"
        )


def require_known_settings(space: Mapping[str, Any], shared: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Raise UserError for a setting of the space that no choice has; one that only some have is left out elsewhere.

    Args:
        space: of the sweep.
        shared: the configuration of a run that is no trial.
        folders: of configuration.
    """
    groups = choices_by_group(folders)

    def is_in_a_choice(name: str) -> bool:
        for folder, group in product(folders, groups):
            setting = name.removeprefix(f"{group.replace('/', '.')}.")
            if setting != name:
                files = (folder / group).glob("*.yaml")
                if any(has(OmegaConf.to_container(OmegaConf.load(file)), setting) for file in files):
                    return True
        return False

    for name, _ in settings_of(space):
        if name not in groups and not has(shared, name) and not is_in_a_choice(name):
            hint = nearest(name, [*(known for known, _ in leaves(shared)), *groups])
            raise UserError(f"sweep.space.{name}: there is no such setting{hint}")


def default_point(plan: Plan) -> Iterator[dict[str, Any]]:
    """The settings of a run without a sweep, where the space has them all: the point that the others compare with."""
    choices = plan.hydra.runtime.choices
    values = {}
    for name, distribution in distributions(plan.sweep.space).items():
        if name not in choices and not has(_plain(plan.shared), name):
            continue  # which this run's choices do not have
        value = choices[name] if name in choices else OmegaConf.select(plan.shared, name, throw_on_missing=False)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        values[name] = parse_value(distribution, text_of(value))
    if all(value is not None for value in values.values()):
        yield values


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def mlflow_logger(plan: Plan) -> Any:
    """The logger of the sweep's MLflow run, or None."""
    if not plan.shared.logger:
        return None
    settings = {"run_name": plan.sweep.name, "system_metrics": False}
    return instantiate(plan.shared.logger, tags={"sweep": plan.sweep.name}, **settings)
