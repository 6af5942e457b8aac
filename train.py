"""Train two towers on a shop's events: python train.py --help"""

import logging
import os
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig, OmegaConf
from tqdm.contrib.logging import logging_redirect_tqdm

from twotower import cli, preflight, processes, run
from twotower.assess import Tested, assess_once, test_model
from twotower.audit.audit import require_sound
from twotower.callbacks import LastCheckpoint, Progress
from twotower.checkpoint import Checkpoints, last_good, read_checkpoint
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.errors import UserError
from twotower.files import read_json, write_json
from twotower.module import TwoTowerModule
from twotower.schema import TOWER_FILE, Prepared, read_item_features
from twotower.tracked import located

log = logging.getLogger("train")
warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")  # of Lightning's own code
warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints for other uses of Lightning than this
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # it does when a run goes on
for chatty in ("pytorch_lightning", "faiss.loader"):  # devices, tips and the like
    logging.getLogger(chatty).setLevel(logging.WARNING)


def train(config: DictConfig) -> None:
    """Prepare, fit on the training part, pick on validation, test once, compare, keep; or go on with all that."""
    if 20 not in config.evaluation.ks:
        raise UserError(f"evaluation.ks={config.evaluation.ks} lacks 20: ndcg@20 picks the epoch; add it")
    if config.evaluate:
        return evaluate(config)
    with processes.together():
        fresh, resumed = processes.first(lambda: (config.run_dir, run.to_resume(config)))
        config.run_dir = fresh  # the others have clocks of their own
        if resumed:  # the run goes on in its own folder, with the configuration it began with
            processes.first(lambda: run.take_over(Path(fresh), resumed))
            config = run.load_config(resumed)
            if run.is_finished(resumed):
                say(f"finished already\nnext: python export.py run={resumed}\nrun: {resumed}")
                return
            log.info("going on with %s", resumed)
        with run.held(Path(config.run_dir)) if processes.is_first() else nullcontext():
            complete(config)


def complete(config: DictConfig) -> None:
    """Do what is left to do of a run."""
    path = Path(config.run_dir)
    prepared = processes.in_turn(lambda: prepare(config))
    inputs = list(run.input_sizes(config, prepared.manifest))
    validation, test = (queries(config, prepared, part, inputs) for part in ("validation", "test"))
    processes.first(lambda: begin(config, prepared))
    logger = None
    if config.logger and processes.is_first():
        logger = instantiate(config.logger, tags=tags_of(config, prepared))
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    fitted = pick_epoch(config, prepared, logger, validation)
    if config.refit:
        refit(config, prepared, logger, fitted["best_epoch"] + 1)
    tested = test_weights(config, prepared, test, path)

    def end() -> None:
        validated = {int(epoch): metrics for epoch, metrics in fitted["validated"].items()}
        metrics = validated[fitted["best_epoch"]] | {"best_epoch": fitted["best_epoch"]} | fitted["summary"]
        assess_once(config, prepared, test, tested, metrics, validated)
        if logger and not keep(logger, path):
            print(f"MLflow could not be told everything; once it is back: python train.py resume={path}")
        else:
            run.clean(path)
            if logger:
                print(f"mlflow: run {logger.run_id} in {config.logger.tracking_uri}")

    processes.first(end)
    say(f"report: {path / run.REPORT_FILE}\nnext: python export.py run={path}\nrun: {path}")


def say(text: str) -> None:
    """Once, however many processes there are."""
    if processes.is_first():
        print(text)


def prepare(config: DictConfig) -> Prepared:
    """The data, found sound."""
    prepared: Prepared = instantiate(config.data)
    require_sound(prepared, config.accept)
    return prepared


def begin(config: DictConfig, prepared: Prepared) -> None:
    """Write what is known before training, or see that a run which goes on has the same data."""
    path = Path(config.run_dir)
    if (path / run.ENVIRONMENT_FILE).exists():  # the last file that a run begins with
        run.require_same_data(path, prepared)
    else:
        run.begin_run(path, config, prepared)


def pick_epoch(config: DictConfig, prepared: Prepared, logger: Any, validation: SessionLoader) -> dict[str, Any]:
    """Train with validation, once: see run.FITTED_FILE."""
    path = Path(config.run_dir)
    file = path / run.FITTED_FILE
    if not processes.first(file.exists):
        progress = fit(config, prepared, logger, path / run.FOLDER / run.LAST, validation)

        def keep_epoch() -> None:
            best = read_checkpoint(path / run.FOLDER / run.BEST)["epoch"]
            write_json(file, {"best_epoch": best, "summary": progress.summary(), "validated": progress.validated})

        processes.first(keep_epoch)
    fitted: dict[str, Any] = processes.first(lambda: read_json(file, "a run directory"))
    return fitted


def refit(config: DictConfig, prepared: Prepared, logger: Any, epochs: int) -> None:
    """Train on training + validation data for as many epochs, once."""
    folder = Path(config.run_dir) / run.FOLDER
    if not processes.first((folder / run.REFIT).exists):
        log.info("refit on training + validation data, epochs: %d", epochs)
        fit(config, prepared, logger, folder / run.REFIT_LAST, refit_epochs=epochs)
        processes.first(lambda: (folder / run.REFIT_LAST).rename(folder / run.REFIT))


def test_weights(config: DictConfig, prepared: Prepared, test: SessionLoader, source: Path) -> Tested:
    """Test the model of a run directory."""
    module = build_module(config, prepared, test)
    run.load_weights(module.model, run.checkpoint_of(source))
    settings = {"enable_progress_bar": sys.stdout.isatty(), "enable_checkpointing": False, "logger": False}
    return test_model(instantiate(config.trainer, **settings, default_root_dir=config.run_dir), module, test)


def evaluate(config: DictConfig) -> None:
    """Test a run or a bundle on data that it may never have seen; nothing is trained."""
    from twotower.other_data import in_numbers_of, known_to_run  # which need what a machine that only trains may lack

    if processes.count() > 1:
        raise UserError("evaluate=... takes one process; leave torchrun out")
    prepared = prepare(config)
    path = Path(config.run_dir)
    with tempfile.TemporaryDirectory() as scratch:
        tracking_uri = config.logger.tracking_uri if config.logger else "sqlite:///mlflow.db"
        source = located(str(config.evaluate), tracking_uri, Path(scratch))
        is_bundle = (source / TOWER_FILE).exists()
        if is_bundle:
            from twotower.bundle_answers import known_to_bundle, test_bundle
            from twotower.serving.bundle import open_bundle

            bundle = open_bundle(source)
            known = known_to_bundle(bundle)
            config.model.max_length = bundle.manifest["max_length"]
        else:
            trained = run.load_run(source)
            known = known_to_run(trained)
            config.model, config.refit = trained.config.model, trained.config.refit
        position = None
        if prepared.manifest["fingerprint"] != known.fingerprint:
            events = len(prepared.item_index)
            prepared, position = in_numbers_of(known, prepared)
            log.info("%s of %s events are of items that the model knows", f"{len(position):,}", f"{events:,}")
        test = queries(config, prepared, "test", known.inputs)
        path.mkdir(parents=True, exist_ok=True)
        if is_bundle:
            tested = test_bundle(bundle, test, list(config.evaluation.ks))
        else:
            tested = test_weights(config, prepared, test, source)
        assess_once(config, prepared, test, tested, {}, position=position)
    print(f"next: python -m twotower.compare {'RUN' if is_bundle else config.evaluate} {path}\nevaluation: {path}")


def fit(
    config: DictConfig,
    prepared: Prepared,
    logger: Any,
    last: Path,
    validation: SessionLoader | None = None,
    refit_epochs: int = 0,
) -> Progress:
    """Train with validation; or, without it, for a known number of epochs on training + validation data.

    It goes on from the checkpoint `last`, if there is one, and leaves its newest there.
    """
    pl.seed_everything(config.seed, verbose=False)
    loader = training_loader(
        prepared,
        config.model.max_length,
        config.positions_per_batch,
        config.seed,
        validation_too=bool(refit_epochs),
        inputs=list(run.input_sizes(config, prepared.manifest)),
        target_weights=config.target_weights,
    )
    if len(loader) == 0:
        raise UserError("no training session has two events; the split leaves nothing to learn from")
    module = build_module(config, prepared, loader, "refit" if refit_epochs else "train")
    progress = Progress()
    chosen = config.callbacks
    if refit_epochs:  # nothing is picked here: no validation, no best checkpoint
        chosen = {name: chosen[name] for name in ("weight_average", "progress_bar") if name in chosen}
    interactive = sys.stdout.isatty()  # Lightning draws there; redrawn lines would fill a log file
    callbacks = [instantiate(c) for name, c in chosen.items() if interactive or name != "progress_bar"]
    trainer = instantiate(
        config.trainer,
        max_epochs=refit_epochs or config.trainer.max_epochs,
        callbacks=[*callbacks, progress, LastCheckpoint(last, config.checkpoint_minutes)],
        plugins=[Checkpoints()],
        enable_progress_bar=interactive,
        logger=logger or False,
        default_root_dir=config.run_dir,
    )
    if validation is not None:
        check_room(config, module, loader, validation, trainer)
    try:
        with logging_redirect_tqdm():  # log lines go above the bar, not into it
            trainer.fit(module, loader, validation, ckpt_path=last_good(last))
    except SystemExit:  # Lightning's way out of Ctrl-C, after the last checkpoint was written
        say(f"interrupted; next: python train.py resume={config.run_dir}\nrun: {config.run_dir}")
        raise KeyboardInterrupt from None
    return progress


def check_room(
    config: DictConfig, module: TwoTowerModule, loader: SessionLoader, validation: SessionLoader, trainer: pl.Trainer
) -> None:
    """Say what the training will take, and refuse what cannot fit."""
    size = preflight.size_of(
        module,
        config.model.loss,
        positions=loader.largest_batch // trainer.world_size,
        length=int(loader.windows.length.max()),
        evaluated=validation.largest_batch // trainer.world_size,
        averaged="weight_average" in config.callbacks,
    )
    device, found = trainer.strategy.root_device, preflight.forecast(size)
    free = preflight.free_memory(device)
    log.info("before the first step:\n%s", preflight.describe(size, found, len(loader), trainer.max_epochs, free))
    preflight.require_room(found, free, weights_are_there=device.type == "cpu")


def build_module(config: DictConfig, prepared: Prepared, loader: SessionLoader, phase: str = "train") -> TwoTowerModule:
    """The towers with all that trains them, for the events that `loader` delivers."""
    target_counts = torch.from_numpy(loader.target_counts())
    model = run.build_model(config, prepared.manifest, read_item_features(prepared.path))
    for tower in model.item_towers():
        tower.begin_training(target_counts)  # type: ignore[operator]
    return TwoTowerModule(
        model=model,
        negatives=instantiate(config.model.negatives, target_counts=target_counts),
        loss=instantiate(config.model.loss),
        temperature=config.model.temperature,
        optimizer=instantiate(config.optimizer),
        total_steps=len(loader) * config.trainer.max_epochs,
        ks=list(config.evaluation.ks),
        event_types=prepared.event_types,
        phase=phase,
        matryoshka=config.model.matryoshka,
    )


def queries(config: DictConfig, prepared: Prepared, part: str, inputs: list[str]) -> SessionLoader:
    """The queries of "validation" or "test", with these event inputs."""
    settings = config.evaluation
    loader = query_loader(
        prepared,
        part,
        config.model.max_length,
        settings.positions_per_batch,
        settings.min_history,
        inputs=inputs,
        target_weights=config.target_weights,
    )
    if loader.num_queries == 0:
        raise UserError(
            f"the {part} part has no query with a history of {settings.min_history} or more events; "
            "give more data, another split, or a smaller evaluation.min_history"
        )
    return loader


def keep(logger: Any, path: Path) -> bool:
    """The final table and the run directory, in MLflow; of the checkpoints only the one that is the run's model."""
    metrics = read_json(path / run.METRICS_FILE, "a run directory")
    logger.log_metrics({name: value for name, value in metrics.items() if not name.startswith("val/")})  # it has those
    files = {file: None for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")}
    kept: bool = logger.keep({**files, run.checkpoint_of(path): run.FOLDER})
    return kept


def tags_of(config: DictConfig, prepared: Prepared) -> dict[str, str]:
    """By what people look for runs in MLflow."""
    parts = {"user_tower": config.model.user_tower, "item_tower": config.model.item_tower, "loss": config.model.loss}
    tags = {name: str(part["_target_"]).rpartition(".")[2] for name, part in parts.items()}
    tags |= {"dataset": str(prepared.manifest["name"]), "dataset_fingerprint": prepared.manifest["fingerprint"]}
    return tags | {"git_commit": run.git_commit() or "unknown"}


if __name__ == "__main__":
    cli.run(train, "train")
