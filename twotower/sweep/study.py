"""A sweep's study, kept by Optuna: trial k is the sweep's job k, and lies in its folder k.

All trials are in the store from the beginning on, waiting, so a killed sweep knows what is left of it. A trial that was
begun has drawn its settings, and goes on with them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.core.files import make_once

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

SQLITE = "sqlite:///"
PATIENCE = 60.0  # seconds that a worker waits for another's write to SQLite


def open_study(sweep: DictConfig, seed: int) -> "optuna.Study":
    """The study of these settings, made if there is none.

    Args:
        sweep: the configuration's part of that name.
        seed: of what the sampler draws; workers that share a study need different ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sweep.storage.startswith(SQLITE):  # a kill must not leave a half-made one
        make_once(Path(sweep.storage.removeprefix(SQLITE)), lambda path: _storage(f"{SQLITE}{path}"))
    return optuna.create_study(
        storage=_storage(sweep.storage),
        study_name=sweep.name,
        directions=list(sweep.objectives.values()),
        sampler=instantiate(sweep.sampler, seed=seed),
        pruner=instantiate(sweep.pruner) if sweep.pruner else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def _storage(url: str) -> Any:
    import optuna

    waits = {"connect_args": {"timeout": PATIENCE}} if url.startswith(SQLITE) else {}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=waits)
    return optuna.storages.get_storage(storage)


def enqueue(study: "optuna.Study", trials: int, known: Sequence[Mapping[str, Any]]) -> None:
    """Let there be so many trials; the first have these settings, and all else is drawn."""
    for number in range(len(study.trials), trials):
        study.enqueue_trial(dict(known[number]) if number < len(known) else {})


def unfinished(study: "optuna.Study") -> list[int]:
    """The numbers of the trials that wait, or were begun and not ended."""
    return [trial.number for trial in study.trials if not trial.state.is_finished()]


def take(study: "optuna.Study", number: int, space: "Mapping[str, BaseDistribution]") -> "optuna.Trial":
    """Begin a trial, or go on with it; its settings are drawn where they were not yet."""
    import optuna

    known = study.trials[number]
    if known.state == optuna.trial.TrialState.WAITING:  # ask() would pick one itself; to a certain one no way is public
        study._storage.set_trial_state_values(known._trial_id, optuna.trial.TrialState.RUNNING)
    trial = optuna.Trial(study, known._trial_id)
    for name, distribution in space.items():
        trial._suggest(name, distribution)  # of any kind
    return trial
