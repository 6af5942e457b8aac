"""Start or resume a run; skip steps whose output exists.

The steps: train and pick the epoch, refit, test, report, send to MLflow. Nothing is written before the model is built
and memory suffices, so a command that fails until then leaves no run.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback

from twotower.core.distributed import is_first_process
from twotower.core.files import read_json
from twotower.core.schema import Prepared
from twotower.data.loader import SessionLoader
from twotower.runs import environment, layout, resume, run
from twotower.runs.build import input_sizes
from twotower.runs.lock import exclusive_lock
from twotower.training.callbacks.progress import Progress
from twotower.training.evaluate_and_report import evaluate_and_report
from twotower.training.final_test import test_model
from twotower.training.fit import build_module, fit, queries
from twotower.training.pick_epoch import PickedEpoch, pick_epoch
from twotower.training.processes import on_first_process, print_once
from twotower.training.refit import refit


class Trained(NamedTuple):
    """A run after training with validation."""

    test: SessionLoader  # the test queries
    logger: Any  # None without MLflow, and on all but the first process
    picked: PickedEpoch


def run_pipeline(config: DictConfig, prepared: Prepared, locks: ExitStack) -> None:
    """Do every step that the run in `config.run_dir` has not done yet.

    Args:
        config: of the run.
        prepared: its data.
        locks: keeps the lock on the run where it is new; the caller has locked one that is resumed.

    Raises:
        UserError: another process has begun a run in the same new directory meanwhile.
    """
    path = Path(config.run_dir)
    new = not (path / layout.CONFIG_FILE).exists()

    def lock() -> None:
        if new:
            locks.enter_context(exclusive_lock(path))
            resume.refuse_other_run(path, config)

    test, logger, picked = train_with_validation(config, prepared, lock=lock)
    if config.refit:
        epochs = picked.best_epoch + 1
        refit(path, epochs, lambda last: fit(config, prepared, logger, last, refit_epochs=epochs))
    module = build_module(config, prepared, test, run.load_run(path).model)
    results = test_model(module, test, config.trainer, path)

    def report() -> None:
        evaluate_and_report(config, prepared, test, results, picked.metrics(), picked.validated)
        if logger and not send_results(logger, path):
            print(f"MLflow can't be reached, so its run is incomplete; once it is back: {resume.resume_command(path)}")
            return
        resume.mark_finished(path)
        if logger:
            print(f"mlflow: run {logger.run_id} in {config.logger.tracking_uri}")

    on_first_process(report)
    print_once(f"report: {path / layout.REPORT_FILE}")


def train_with_validation(
    config: DictConfig,
    prepared: Prepared,
    callbacks: Sequence[Callback] = (),
    lock: Callable[[], None] = lambda: None,
) -> Trained:
    """Train, and pick the epoch.

    Args:
        config: of the run.
        prepared: its data.
        callbacks: further ones, beside the configured.
        lock: called once the run can be resumed, before anything else is written.
    """
    path = Path(config.run_dir)
    inputs = list(input_sizes(config.model, prepared.manifest))
    loader = partial(queries, prepared, inputs, config.model.max_length, config.target_weights, config.evaluation)
    validation, test = loader("validation"), loader("test")
    logger = None
    if config.logger and is_first_process():
        logger = instantiate(config.logger, tags=mlflow_tags(config.model, prepared))

    def begin() -> None:
        if not (path / layout.CONFIG_FILE).exists():  # first, so that any kill from now on leaves a run to resume
            run.write_config(path, OmegaConf.to_yaml(config, resolve=True))
        lock()
        run.begin_run(path, config.model, prepared, test.target_events())
        if logger:
            logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
            logger.log_dataset(str(prepared.manifest["name"]), prepared.manifest["fingerprint"], str(prepared.path))

    def train(last: Path) -> Progress:
        return fit(config, prepared, logger, last, validation, callbacks=callbacks, begin=begin)

    try:
        picked = pick_epoch(path, train)
    except Exception:
        if logger and (path / layout.CONFIG_FILE).exists():
            logger.finalize("failed")
        raise
    return Trained(test, logger, picked)


def send_results(logger: Any, path: Path) -> bool:
    """Send metrics, files and the model's checkpoint to MLflow; returns False where it can't be reached."""
    metrics = read_json(path / layout.METRICS_FILE, "a run directory")
    logger.log_metrics({name: value for name, value in metrics.items() if not name.startswith("val/")})  # it has those
    sent: bool = logger.keep(layout.checkpoint_of(path))
    return sent


def mlflow_tags(model_settings: DictConfig, prepared: Prepared) -> dict[str, str]:
    """Tags that people search runs by: classes of the model's parts, data set, git commit."""
    names = ("user_tower", "item_tower", "loss")
    tags = {name: str(model_settings[name]["_target_"]).rpartition(".")[2] for name in names}
    tags |= {"dataset": str(prepared.manifest["name"]), "dataset_fingerprint": prepared.manifest["fingerprint"]}
    return tags | {"git_commit": environment.git_commit() or "unknown"}
