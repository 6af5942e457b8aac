"""Train a model, or test one: what a configuration, data and weights make together. Wiring only."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from twotower.core.errors import UserError
from twotower.core.schema import Prepared, read_item_features
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.evaluation.evaluate_run import ModelResults
from twotower.model.two_tower import TwoTower
from twotower.runs import build
from twotower.runs.checkpoint import Checkpoints, last_good
from twotower.training import memory_forecast as preflight
from twotower.training.callbacks import LastCheckpoint, Progress
from twotower.training.module import TwoTowerModule

log = logging.getLogger(__name__)


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


def fit(
    config: DictConfig,
    prepared: Prepared,
    logger: Any,
    last: Path,
    validation: SessionLoader | None = None,
    refit_epochs: int = 0,
    callbacks: Sequence[pl.Callback] = (),
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
        inputs=list(build.input_sizes(config, prepared.manifest)),
        target_weights=config.target_weights,
    )
    if len(loader) == 0:
        raise UserError("no training session has two events; the split leaves nothing to learn from")
    phase = "refit" if refit_epochs else "train"
    module = build_module(config, prepared, loader, fresh_model(config, prepared, loader), phase)
    progress = Progress()
    chosen = config.callbacks
    if refit_epochs:  # nothing is picked here: no validation, no best checkpoint
        chosen = {name: chosen[name] for name in ("weight_average", "progress_bar") if name in chosen}
    interactive = "progress_bar" in chosen and sys.stdout.isatty()  # redrawn lines would fill a log file
    configured = [instantiate(c) for name, c in chosen.items() if interactive or name != "progress_bar"]
    trainer = instantiate(
        config.trainer,
        max_epochs=refit_epochs or config.trainer.max_epochs,
        callbacks=[*configured, *callbacks, progress, LastCheckpoint(last, config.checkpoint_minutes)],
        plugins=[Checkpoints()],
        enable_progress_bar=interactive,
        logger=logger or False,
        default_root_dir=config.run_dir,
    )
    if validation is not None:
        check_room(config, module, loader, validation, trainer)
    try:
        with logging_redirect_tqdm() if interactive else nullcontext():  # log lines go above the bar, not into it
            trainer.fit(module, loader, validation, ckpt_path=last_good(last))
    except SystemExit:  # Lightning's way out of Ctrl-C, after the last checkpoint was written
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


def fresh_model(config: DictConfig, prepared: Prepared, loader: SessionLoader) -> TwoTower:
    """The towers, about to learn from the events that `loader` delivers."""
    model = build.build_model(config, prepared.manifest, read_item_features(prepared.path))
    target_counts = torch.from_numpy(loader.target_counts())
    for tower in model.item_towers():
        tower.begin_training(target_counts)  # type: ignore[operator]
    return model


def build_module(
    config: DictConfig, prepared: Prepared, loader: SessionLoader, model: TwoTower, phase: str = "train"
) -> TwoTowerModule:
    """The towers with all that trains them, for the events that `loader` delivers."""
    return TwoTowerModule(
        model=model,
        negatives=instantiate(config.model.negatives, target_counts=torch.from_numpy(loader.target_counts())),
        loss=instantiate(config.model.loss),
        temperature=config.model.temperature,
        optimizer=instantiate(config.optimizer),
        total_steps=len(loader) * config.trainer.max_epochs,
        ks=list(config.evaluation.ks),
        event_types=prepared.event_types,
        phase=phase,
        matryoshka=config.model.matryoshka,
    )


def test_model(trainer: pl.Trainer, module: TwoTowerModule, test: SessionLoader) -> ModelResults:
    """Of a model with its weights."""
    begin = time.perf_counter()
    metrics = dict(trainer.test(module, test, verbose=False)[0])
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        items = module.model.encode_items().cpu().numpy()
    return ModelResults(metrics, module.answers(), items, seconds)


def test_weights(config: DictConfig, prepared: Prepared, test: SessionLoader, model: TwoTower) -> ModelResults:
    """Test a model that has been loaded."""
    module = build_module(config, prepared, test, model)
    settings = {"enable_progress_bar": sys.stdout.isatty(), "enable_checkpointing": False, "logger": False}
    return test_model(instantiate(config.trainer, **settings, default_root_dir=config.run_dir), module, test)
