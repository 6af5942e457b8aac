"""One trial of a sweep: it trains with settings that the study draws, on validation alone; no refit, no test."""

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from pytorch_lightning import Callback, LightningModule, Trainer

from twotower.core.errors import UserError
from twotower.runs import layout, resume, run
from twotower.sweep.serving_cost import SERVING, serving_cost
from twotower.sweep.space import distributions
from twotower.sweep.study import open_study, take
from twotower.training import complete

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
PRUNED, FAILED, SECONDS = "pruned", "error", "seconds"  # what the study is told of a trial beside its values


def attempt(config: DictConfig) -> None:
    """Do what is left to do of trial `config.sweep.trial`. Where it fails the study is told why, and others go on."""
    import optuna

    if config.sweep.trial is None:
        raise UserError("a sweep is many runs, so it wants -m: python train.py -m sweep=...")
    number, path = int(config.sweep.trial), Path(config.run_dir)
    study = open_study(config.sweep, config.seed + number)
    with resume.exclusive_lock(path):
        trial = take(study, number, distributions(config.sweep.space))
        begin = time.monotonic()
        state, values = optuna.trial.TrialState.COMPLETE, None
        try:
            values = validate(config, trial)
            if PRUNED in trial.user_attrs:
                state, values = optuna.trial.TrialState.PRUNED, None
                shutil.rmtree(path / layout.CHECKPOINTS_FOLDER, ignore_errors=True)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on with the sweep")
            raise
        except Exception as error:  # of any kind: it is this trial's alone
            log.exception("trial %d failed", number)
            state = optuna.trial.TrialState.FAIL
            cause = error.__cause__ or error  # what Hydra says of a failure is long
            trial.set_user_attr(FAILED, f"{type(cause).__name__}: {cause}".splitlines()[0])
        trial.set_user_attr(SECONDS, trial.user_attrs.get(SECONDS, 0.0) + time.monotonic() - begin)
        study.tell(number, values, state)
    print(line_of(study.trials[number], len(study.trials)))


def validate(config: DictConfig, trial: "optuna.Trial") -> list[float]:
    """Train, and give the values of the sweep's objectives."""
    names = list(config.sweep.objectives)
    own = config_of(config, trial)
    by_epoch = len(names) == 1 and names[0].startswith("val/")  # Optuna prunes by one value alone
    pruning = [Pruning(trial, names[0])] if by_epoch else []
    _, _, logger, fitted = complete.train(own, pruning)
    path = Path(own.run_dir)
    found = fitted.metrics()
    if any(name.startswith(SERVING) for name in names):
        found |= serving_cost(run.load_run(path))
    if logger:
        logger.log_metrics({f"best/{name.rpartition('/')[2]}": found[name] for name in names})
    if not logger or logger.keep(status="KILLED" if PRUNED in trial.user_attrs else "FINISHED"):
        resume.clean(path)
    return [found[name] for name in names]


def config_of(config: DictConfig, trial: "optuna.Trial") -> DictConfig:
    """The configuration of the run that this trial is."""
    job = HydraConfig.get()
    drawn = [f"{name}={value}" for name, value in trial.params.items()]
    typed = [o for o in job.overrides.task if not of_sweep(o) and o.lstrip("+").partition("=")[0] not in trial.params]
    own = hydra.compose(job.job.config_name, [*typed, *drawn])
    own.sweep, own.run_dir, own.resume = None, config.run_dir, None
    with open_dict(own.callbacks):
        own.callbacks.pop("progress_bar", None)
    if own.logger:
        own.logger.run_name = f"{config.sweep.name} {trial.number}"
        own.logger.parent = str(Path(config.run_dir).parent)
    return own


def of_sweep(override: str) -> bool:
    """Whether an override of the command line is of the sweep, not of its trials."""
    key = override.lstrip("+~").partition("=")[0]
    return key.replace("/", ".").split(".")[0] == "sweep"


def line_of(trial: "optuna.trial.FrozenTrial", trials: int) -> str:
    """What a person sees of a trial that has ended."""
    figures = " ".join(f"{value:.4f}" for value in trial.values or [])
    told = {"COMPLETE": figures, "PRUNED": f"pruned at {figures}", "FAIL": f"failed: {trial.user_attrs.get(FAILED)}"}
    settings = " ".join(f"{name}={shown(value)}" for name, value in trial.params.items())
    return f"trial {trial.number} of {trials}  {told[trial.state.name]}  {trial.user_attrs[SECONDS]:.0f} s  {settings}"


def shown(value: Any) -> str:
    """A setting's value, short enough for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Pruning(Callback):
    """Tells the study of each validation, and stops the trial where it looks bad beside the others.

    Args:
        trial: of the study.
        objective: the metric that it is judged by.
    """

    def __init__(self, trial: "optuna.Trial", objective: str) -> None:
        self.trial = trial
        self.objective = objective

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once, if that was decided before a kill."""
        trainer.should_stop = PRUNED in self.trial.user_attrs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and judge."""
        epoch = trainer.current_epoch
        known = self.trial.study.trials[self.trial.number].intermediate_values
        if epoch not in known:  # after a kill an epoch may come again
            self.trial.report(float(trainer.callback_metrics[self.objective]), epoch)
        if self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, epoch)
            trainer.should_stop = True
