"""A run from wherever it stands to its end. Each step leaves a file, and is not done again once that is there."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback

from twotower.core.distributed import is_first_process
from twotower.core.files import read_json, write_json
from twotower.core.schema import Prepared
from twotower.data.loader import SessionLoader
from twotower.runs import build, environment, layout, resume, run
from twotower.runs.checkpoint import read_checkpoint
from twotower.training import processes
from twotower.training.evaluate_and_report import evaluate_and_report
from twotower.training.fit import fit, queries, test_weights
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)


class Fitted(NamedTuple):
    """What training with validation found: layout.FITTED_FILE."""

    best_epoch: int
    summary: dict[str, float]
    validated: dict[int, dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """Of the epoch that was picked."""
        return self.validated[self.best_epoch] | {"best_epoch": self.best_epoch} | self.summary


def complete(config: DictConfig) -> None:
    """Do what is left to do of a run."""
    path = Path(config.run_dir)
    prepared, test, logger, fitted = train(config)
    if config.refit:
        refit(config, prepared, logger, fitted.best_epoch + 1)
    tested = test_weights(config, prepared, test, run.load_run(path).model)

    def end() -> None:
        evaluate_and_report(config, prepared, test, tested, fitted.metrics(), fitted.validated)
        if logger and not keep(logger, path):
            print(f"MLflow could not be told everything; once it is back: python train.py resume={path}")
        else:
            resume.clean(path)
            if logger:
                print(f"mlflow: run {logger.run_id} in {config.logger.tracking_uri}")

    processes.first(end)
    processes.say(f"report: {path / layout.REPORT_FILE}\nnext: python export.py run={path}\nrun: {path}")


def train(config: DictConfig, callbacks: Sequence[Callback] = ()) -> tuple[Prepared, SessionLoader, Any, Fitted]:
    """Prepare, begin, and train with validation.

    Returns:
        The data, the test's queries, the logger (None on all but the first process), and what validation picked.
    """
    path = Path(config.run_dir)
    if is_first_process() and not (path / layout.CONFIG_FILE).exists():
        run.write_config(path, config)
    prepared = processes.in_turn(lambda: prepare(config.data, config.accept))
    inputs = list(build.input_sizes(config, prepared.manifest))
    validation, test = (queries(config, prepared, part, inputs) for part in ("validation", "test"))
    processes.first(lambda: begin(config, prepared))
    logger = None
    if config.logger and is_first_process():
        logger = instantiate(config.logger, tags=tags_of(config, prepared))
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    try:
        return prepared, test, logger, pick_epoch(config, prepared, logger, validation, callbacks)
    except Exception:
        if logger:
            logger.finalize("failed")
        raise


def begin(config: DictConfig, prepared: Prepared) -> None:
    """Write what is known before training, or see that a run which goes on has the same data."""
    path = Path(config.run_dir)
    if (path / layout.ENVIRONMENT_FILE).exists():  # the last file that a run begins with
        run.require_same_data(path, prepared)
    else:
        run.begin_run(path, config, prepared)


def pick_epoch(
    config: DictConfig, prepared: Prepared, logger: Any, validation: SessionLoader, callbacks: Sequence[Callback] = ()
) -> Fitted:
    """Train with validation, once."""
    path = Path(config.run_dir)
    file = path / layout.FITTED_FILE
    if not processes.first(file.exists):
        progress = fit(
            config, prepared, logger, path / layout.CHECKPOINTS_FOLDER / layout.LAST, validation, callbacks=callbacks
        )

        def keep_epoch() -> None:
            best = read_checkpoint(path / layout.CHECKPOINTS_FOLDER / layout.BEST)["epoch"]
            write_json(file, {"best_epoch": best, "summary": progress.summary(), "validated": progress.validated})

        processes.first(keep_epoch)
    found = processes.first(lambda: read_json(file, "a run directory"))
    validated = {int(epoch): metrics for epoch, metrics in found["validated"].items()}
    return Fitted(found["best_epoch"], found["summary"], validated)


def refit(config: DictConfig, prepared: Prepared, logger: Any, epochs: int) -> None:
    """Train on training + validation data for as many epochs, once."""
    folder = Path(config.run_dir) / layout.CHECKPOINTS_FOLDER
    if not processes.first((folder / layout.REFIT).exists):
        log.info("refit on training + validation data, epochs: %d", epochs)
        fit(config, prepared, logger, folder / layout.REFIT_LAST, refit_epochs=epochs)
        processes.first(lambda: (folder / layout.REFIT_LAST).rename(folder / layout.REFIT))


def keep(logger: Any, path: Path) -> bool:
    """The final table and the run directory, in MLflow; of the checkpoints only the one that is the run's model."""
    metrics = read_json(path / layout.METRICS_FILE, "a run directory")
    logger.log_metrics({name: value for name, value in metrics.items() if not name.startswith("val/")})  # it has those
    kept: bool = logger.keep(layout.checkpoint_of(path))
    return kept


def tags_of(config: DictConfig, prepared: Prepared) -> dict[str, str]:
    """By what people look for runs in MLflow."""
    parts = {"user_tower": config.model.user_tower, "item_tower": config.model.item_tower, "loss": config.model.loss}
    tags = {name: str(part["_target_"]).rpartition(".")[2] for name, part in parts.items()}
    tags |= {"dataset": str(prepared.manifest["name"]), "dataset_fingerprint": prepared.manifest["fingerprint"]}
    return tags | {"git_commit": environment.git_commit() or "unknown"}
