"""Train a model: build loader, module and trainer from a configuration, check the memory, and run Lightning's loop."""

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm.contrib.logging import logging_redirect_tqdm

from twotower.core.arrays import Floats
from twotower.core.errors import UserError
from twotower.core.event_codes import GAP
from twotower.core.schema import Prepared, read_item_features
from twotower.data.horizon import NEXT, events_ahead
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.data.popularity_shift import popularity_shift
from twotower.data.windows import newest_of
from twotower.evaluation.ranked import ranked_items, ranked_settings
from twotower.model.two_tower import TwoTower
from twotower.runs.build import build_model, input_sizes, temperature_of
from twotower.runs.checkpoint import Checkpoints, last_good
from twotower.training import memory_forecast
from twotower.training.batch_size import batch_size
from twotower.training.callbacks.interruption import Interruption
from twotower.training.callbacks.last_checkpoint import LastCheckpoint
from twotower.training.callbacks.progress import Progress
from twotower.training.module import TwoTowerModule
from twotower.training.processes import on_first_process
from twotower.training.warm_start import WarmStart

log = logging.getLogger(__name__)


def queries(
    prepared: Prepared, inputs: Sequence[str], max_length: int, target_weights: Any, evaluation: DictConfig, part: str
) -> SessionLoader:
    """Return the queries of `part`, "validation" or "test"; raises UserError where there are none.

    `evaluation` is the configuration's group of that name; see data.loader.query_loader for the other arguments.
    """
    positions, least = evaluation.positions_per_batch, evaluation.min_history
    events_ahead(evaluation.get("horizon", NEXT), prepared, prepared.offsets[1:])  # its errors come before training
    loader = query_loader(prepared, part, max_length, positions, least, list(inputs), target_weights)
    if loader.num_queries == 0:
        raise UserError(
            f"the {part} part has no query with a history of {least} or more events; "
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
    begin: Callable[[], None] = lambda: None,
) -> Progress:
    """Train with validation; or, without it, for `refit_epochs` epochs on training + validation data.

    Resumes from the checkpoint `last` where it exists, and keeps the newest state there. `begin` is called by the first
    process once the model is built and fits into memory.
    """
    pl.seed_everything(config.seed, verbose=False)
    length = config.model.max_length
    sizes = length, config.positions_per_batch or batch_size(prepared, length)
    inputs = list(input_sizes(config.model, prepared.manifest))
    # Runs of before lack the keys of these two.
    horizon, strength = config.model.get("horizon", NEXT), config.model.get("popularity_shift", 0)
    newest = newest_of(config.get("newest_days"), config.get("replay", 1), GAP in prepared.manifest["inputs"])
    loader = training_loader(
        prepared, *sizes, config.seed, bool(refit_epochs), inputs, config.target_weights, horizon, newest
    )
    if len(loader) == 0:
        raise UserError("no training session has two events; the split leaves nothing to learn from")
    phase = "refit" if refit_epochs else "train"
    shift = popularity_shift(prepared, bool(refit_epochs), strength)
    module = build_module(config, prepared, loader, new_model(config.model, prepared, loader), phase, shift)
    start = None
    if config.get("warm_start") and last_good(last) is None:
        tracking_uri = config.logger.tracking_uri if config.logger else None
        start = WarmStart(module.model, config.warm_start, config.model, prepared, Path(config.run_dir), tracking_uri)
    interactive = "progress_bar" in config.callbacks and sys.stdout.isatty()  # redrawn lines would fill a log file
    log.info("%d positions a step, temperature %.3g", sizes[1], module.temperature)
    progress, interruption = Progress(), Interruption()
    configured = configured_callbacks(config.callbacks, bool(refit_epochs), interactive)
    trainer = instantiate(
        config.trainer,
        max_epochs=refit_epochs or config.trainer.max_epochs,
        callbacks=[interruption, *configured, *callbacks, progress, LastCheckpoint(last, config.checkpoint_minutes)],
        plugins=[Checkpoints()],
        enable_progress_bar=interactive,
        logger=logger or False,
        default_root_dir=config.run_dir,
    )
    if validation is not None:
        check_memory(module, config.model.dim, "weight_average" in config.callbacks, loader, validation, trainer)
    on_first_process(begin)
    if start:
        start.load(prepared.training_mask(bool(refit_epochs)))
        begin_towers(module.model, loader)
    try:
        with logging_redirect_tqdm() if interactive else nullcontext():  # log lines go above the bar, not into it
            trainer.fit(module, loader, validation, ckpt_path=last_good(last))
    except SystemExit:  # how Lightning leaves after Ctrl-C, once the last checkpoint is written
        raise KeyboardInterrupt from None
    if interruption.noted:  # after the last batch
        raise KeyboardInterrupt
    return progress


def configured_callbacks(settings: DictConfig, refit: bool, interactive: bool) -> list[pl.Callback]:
    """Build the callbacks of the configuration's group `callbacks`; a refit picks nothing, so it has few of them."""
    wanted = [name for name in settings if not refit or name in ("weight_average", "progress_bar")]
    wanted = [name for name in wanted if settings[name] is not None]  # null switches one off
    return [instantiate(settings[name]) for name in wanted if interactive or name != "progress_bar"]


def check_memory(
    module: TwoTowerModule,
    dim: int,
    averaged: bool,
    loader: SessionLoader,
    validation: SessionLoader,
    trainer: pl.Trainer,
) -> None:
    """Log what training will need; raises UserError where it can't fit into memory."""
    size = memory_forecast.size_of(
        module,
        dim,
        positions=loader.largest_batch // trainer.world_size,
        length=int(loader.windows.length.max()),
        evaluated=validation.largest_batch // trainer.world_size,
        averaged=averaged,
    )
    device, forecast = trainer.strategy.root_device, memory_forecast.forecast(size)
    free = memory_forecast.free_memory(device)
    table = memory_forecast.describe(size, forecast, len(loader), trainer.max_epochs, free)
    log.info("before the first step:\n%s", table)
    memory_forecast.require_room(forecast, free, weights_are_there=device.type == "cpu")


def new_model(settings: DictConfig, prepared: Prepared, loader: SessionLoader) -> TwoTower:
    """Build the model of the group `model`, with what its towers take from the targets that `loader` delivers."""
    model = build_model(settings, prepared.manifest, read_item_features(prepared.path))
    begin_towers(model, loader)
    return model


def begin_towers(model: TwoTower, loader: SessionLoader) -> None:
    """Give the item towers what they take from the targets that `loader` delivers."""
    target_counts = torch.from_numpy(loader.target_counts())
    for tower in model.item_towers():
        tower.begin_training(target_counts)  # type: ignore[operator]


def build_module(
    config: DictConfig,
    prepared: Prepared,
    loader: SessionLoader,
    model: TwoTower,
    phase: str = "train",
    shift: Floats | None = None,
) -> TwoTowerModule:
    """Build the Lightning module that trains `model`, or tests it, on the batches of `loader`; `shift` [V + 1]."""
    return TwoTowerModule(
        model=model,
        negatives=instantiate(config.model.negatives, target_counts=torch.from_numpy(loader.target_counts())),
        loss=instantiate(config.model.loss),
        temperature=temperature_of(config.model, prepared.num_items),
        optimizer=instantiate(config.optimizer),
        total_steps=len(loader) * config.trainer.max_epochs,
        ks=list(config.evaluation.ks),
        event_types=prepared.event_types,
        phase=phase,
        matryoshka=config.model.matryoshka,
        ranked=ranked_items(prepared, **ranked_settings(config.evaluation)),
        popularity_shift=None if shift is None else torch.from_numpy(shift),
    )
