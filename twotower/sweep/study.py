"""The sweep's Optuna study: trial k is Hydra's job k, with its files in folder k.

All trials are stored from the start, in state WAITING, so a killed sweep knows what is left of it. A trial that was
started keeps the settings it drew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.core.files import create_file_once

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

SQLITE = "sqlite:///"
STUDY_FILE = "study.db"  # in the sweep's folder, with the storage that conf/sweep/tpe.yaml names
SWEEP_FILE = "sweep.json"  # in the sweep's folder: its settings, and the command that resumes it
# Attributes of a trial: epoch, message, duration, and settings of the space that its choices do not have.
PRUNED, FAILED, SECONDS, LEFT_OUT = "pruned", "error", "seconds", "left_out"
BY_TARGET = "by target"  # attribute of a trial: validation metrics of repeated and of new targets
LOCK_TIMEOUT = 60.0  # seconds that a worker waits for another's write to SQLite


def open_study(sweep: DictConfig, seed: int) -> "optuna.Study":
    """Open the study, which is created where it is missing.

    Args:
        sweep: the configuration's group of that name.
        seed: of the sampler; workers that share a study need different ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sweep.storage.startswith(SQLITE):  # a kill must not leave half a file
        create_file_once(Path(sweep.storage.removeprefix(SQLITE)), lambda path: _storage(f"{SQLITE}{path}"))
    return optuna.create_study(
        storage=_storage(sweep.storage),
        study_name=sweep.name,
        directions=list(sweep.objectives.values()),
        sampler=instantiate(sweep.sampler, seed=seed),
        pruner=instantiate(sweep.pruner) if sweep.pruner else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def load_study(path: Path, sweep: Mapping[str, Any]) -> "optuna.Study":
    """Open the study of the sweep's folder `path` for reading; `sweep` are the settings it was begun with."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = path / STUDY_FILE
    storage = f"{SQLITE}{file}" if file.is_file() else sweep["storage"]  # the folder may have been moved
    return optuna.load_study(study_name=sweep["name"], storage=_storage(storage))


def _storage(url: str) -> Any:
    import optuna

    timeout = {"connect_args": {"timeout": LOCK_TIMEOUT}} if url.startswith(SQLITE) else {}
    return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=timeout))


def enqueue(study: "optuna.Study", trials: int, points: Sequence[Mapping[str, Any]]) -> None:
    """Add trials until there are `trials`; the first have the settings `points`, the others draw theirs."""
    for number in range(len(study.trials), trials):
        study.enqueue_trial(dict(points[number]) if number < len(points) else {})


def unfinished(study: "optuna.Study") -> list[int]:
    """Numbers of the trials that wait, or were started and not ended."""
    return [trial.number for trial in study.trials if not trial.state.is_finished()]


def claim_trial(study: "optuna.Study", number: int, space: "Mapping[str, BaseDistribution]") -> "optuna.Trial":
    """Start or resume a trial; settings that it has not drawn yet are drawn."""
    import optuna

    frozen = study.trials[number]
    if frozen.state == optuna.trial.TrialState.WAITING:  # Optuna's ask() would choose the trial itself
        study._storage.set_trial_state_values(frozen._trial_id, optuna.trial.TrialState.RUNNING)
    trial = optuna.Trial(study, frozen._trial_id)
    for name, distribution in space.items():
        trial._suggest(name, distribution)  # of any kind
    return trial


def used_settings(trial: Any) -> dict[str, Any]:
    """The settings that a trial drew and used."""
    left_out = trial.user_attrs.get(LEFT_OUT, ())
    return {name: value for name, value in trial.params.items() if name not in left_out}


def short_text(value: Any) -> str:
    """A setting's value as text, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
