"""One trial of a sweep: train with the settings that the study draws, and validate; no refit, no test."""

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.nested import has
from twotower.evaluation.summary import PRIMARY_METRIC
from twotower.metrics.ranking_metrics import TARGETS
from twotower.runs import layout, resume, run
from twotower.runs.lock import exclusive_lock
from twotower.sweep.serving_cost import SERVING, serving_cost
from twotower.sweep.space import distributions
from twotower.sweep.study import (
    BY_TARGET,
    FAILED,
    LEFT_OUT,
    PRUNED,
    SECONDS,
    SWEEP_FILE,
    claim_trial,
    open_study,
    short_text,
    used_settings,
)
from twotower.training.pipeline import train_with_validation
from twotower.training.prepare import prepare

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


def run_trial(config: DictConfig) -> Path:
    """Start or resume trial `config.sweep.trial`, record its outcome in the study, and return its folder.

    Where it fails, the study keeps the reason, and the sweep continues with the other trials.
    """
    from optuna.trial import TrialState

    if config.sweep.trial is None:
        raise UserError(f"a sweep is many runs, so it takes -m: {command('train', '-m', 'sweep=...')}")
    number, path = int(config.sweep.trial), Path(config.run_dir)
    study = open_study(config.sweep, config.seed + number)
    with exclusive_lock(path):
        trial = claim_trial(study, number, distributions(config.sweep.space))
        begin = time.monotonic()
        state, values = TrialState.COMPLETE, None
        try:
            values = validate(trial, path, config.sweep.name, list(config.sweep.objectives))
            if PRUNED in trial.user_attrs:
                state, values = TrialState.PRUNED, None
                shutil.rmtree(path / layout.CHECKPOINTS_FOLDER, ignore_errors=True)
        except KeyboardInterrupt:
            print(f"interrupted; next: {read_json(path.parent / SWEEP_FILE, 'a sweep')['command']['line']}")
            raise
        except Exception as error:  # of any kind: it concerns this trial alone
            log.exception("trial %d failed", number)
            state = TrialState.FAIL
            cause = error.__cause__ or error  # without Hydra's long text around it
            trial.set_user_attr(FAILED, f"{type(cause).__name__}: {cause}".splitlines()[0])
        trial.set_user_attr(SECONDS, trial.user_attrs.get(SECONDS, 0.0) + time.monotonic() - begin)
        study.tell(number, values, state)
    print(trial_line(study.trials[number], len(study.trials)))
    return path


def validate(trial: "optuna.Trial", path: Path, sweep_name: str, objectives: list[str]) -> list[float]:
    """Train the trial's run, and return the values of the sweep's objectives."""
    prunable = len(objectives) == 1 and objectives[0].startswith("val/")  # Optuna prunes by a single value
    callbacks = [Pruning(trial, objectives[0])] if prunable else []
    config = trial_config(trial, path, sweep_name)
    trained = train_with_validation(config, prepare(config.data, config.accept), callbacks)
    metrics, logger = trained.picked.metrics(), trained.logger
    by_target = {name: metrics.get(name) for name in (f"val/{PRIMARY_METRIC}_{part}" for part in TARGETS)}
    trial.set_user_attr(BY_TARGET, {name: value for name, value in by_target.items() if value is not None})
    if any(name.startswith(SERVING) for name in objectives):
        metrics |= serving_cost(run.load_run(path))
    if logger:
        logger.log_metrics({f"best/{name.rpartition('/')[2]}": metrics[name] for name in objectives})
    if not logger or logger.keep(status="KILLED" if PRUNED in trial.user_attrs else "FINISHED"):
        resume.mark_finished(path)
    return [metrics[name] for name in objectives]


def trial_config(trial: "optuna.Trial", path: Path, sweep_name: str) -> DictConfig:
    """Compose the configuration of the trial's run: the overrides of the command line, then the settings it drew.

    Settings that the drawn choices do not have, as the layers of a mean, are left out, and the study keeps their names.
    """
    job = HydraConfig.get()
    typed = [
        o for o in job.overrides.task if not is_of_sweep(o) and o.lstrip("+").partition("=")[0] not in trial.params
    ]
    drawn = {name: f"{name}={value}" for name, value in trial.params.items()}
    chosen = [drawn[name] for name in drawn if name in job.runtime.choices]
    plain = OmegaConf.to_container(hydra.compose(job.job.config_name, [*typed, *chosen]), resolve=False)
    left_out = [name for name in drawn if name not in job.runtime.choices and not has(plain, name)]
    trial.set_user_attr(LEFT_OUT, left_out)
    words = [word for name, word in drawn.items() if name not in left_out]
    config = hydra.compose(job.job.config_name, [*typed, *words])
    config.sweep, config.run_dir, config.resume = None, str(path), None
    with open_dict(config.callbacks):
        config.callbacks.pop("progress_bar", None)
    if config.logger:
        config.logger.run_name = f"{sweep_name} {trial.number}"
        config.logger.parent = str(path.parent)
    return config


def is_of_sweep(override: str) -> bool:
    """Whether an override sets the sweep rather than its trials."""
    key = override.lstrip("+~").partition("=")[0]
    return key.replace("/", ".").split(".")[0] == "sweep"


def trial_line(trial: "optuna.trial.FrozenTrial", trials: int) -> str:
    """One line on a trial that has ended."""
    values = " ".join(f"{value:.4f}" for value in trial.values or [])
    outcome = {"COMPLETE": values, "PRUNED": f"pruned at {values}", "FAIL": f"failed: {trial.user_attrs.get(FAILED)}"}
    settings = " ".join(f"{name}={short_text(value)}" for name, value in used_settings(trial).items())
    if left_out := trial.user_attrs.get(LEFT_OUT):
        settings += f" (without {', '.join(left_out)}, which this choice does not have)"
    end = f"{outcome[trial.state.name]}  {trial.user_attrs[SECONDS]:.0f} s"
    return f"trial {trial.number} of {trials}  {end}  {settings}"


class Pruning(Callback):
    """Reports each validation to the study, and stops the trial where the study's pruner decides so.

    >>> import optuna
    >>> Pruning(optuna.create_study().ask(), "val/ndcg_at_20").objective
    'val/ndcg_at_20'

    Args:
        trial: of the study.
        objective: the metric to report.
    """

    def __init__(self, trial: "optuna.Trial", objective: str) -> None:
        self.trial = trial
        self.objective = objective

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where the trial was pruned before a kill."""
        trainer.should_stop = PRUNED in self.trial.user_attrs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch, and ask the pruner."""
        epoch = trainer.current_epoch
        known = self.trial.study.trials[self.trial.number].intermediate_values
        if epoch not in known:  # after a kill an epoch is trained again
            self.trial.report(float(trainer.callback_metrics[self.objective]), epoch)
        if self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, epoch)
            trainer.should_stop = True
