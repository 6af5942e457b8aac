"""What several tests share: small prepared directories and small models."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from preparing import prepare, real_data
from run_directory import make_run

from twotower.core.event_codes import TIME, TIME_SIZE
from twotower.core.files import write_json
from twotower.core.schema import (
    ARRAYS,
    CATALOGUE_FILE,
    FEATURES_FILE,
    ITEM_FEATURES_FILE,
    Prepared,
    input_file,
    open_prepared,
    read_item_features,
    write_prepared,
)
from twotower.data.loader import SessionLoader
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.item_tower.id import IdItemTower
from twotower.model.losses.softmax import softmax
from twotower.model.negatives import CatalogueNegatives, MixtureNegatives
from twotower.model.objective import Objective
from twotower.model.optimizers.adamw import adamw
from twotower.model.pointer import Pointer
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower
from twotower.model.user_tower.linear_recurrence import LinearRecurrenceTower
from twotower.model.user_tower.mean_pool import MeanPoolTower
from twotower.model.user_tower.transformer import TransformerTower
from twotower.runs.checkpoint import Checkpoints
from twotower.training.module import TwoTowerModule

__all__ = ["make_run", "prepare", "real_data"]  # fixtures that stand in files of their own
MakePrepared = Callable[..., Prepared]
MakeTower = Callable[..., torch.nn.Module]
MakeModule = Callable[..., TwoTowerModule]
MakeTrainer = Callable[..., pl.Trainer]


@pytest.fixture(scope="session")
def make_prepared(tmp_path_factory: pytest.TempPathFactory) -> MakePrepared:
    """Write and open a prepared directory of the given sessions."""

    def make(
        sessions: Sequence[Sequence[int]],
        train: Sequence[int] | None = None,  # events of each session that are for training; None: all
        validation: Sequence[int] | None = None,  # how many of the events after those validate; None: the rest
        num_items: int | None = None,
        types: Sequence[Sequence[int]] | None = None,
        timestamps: Sequence[Sequence[int]] | None = None,
        event_types: Sequence[str] = ("view",),
        inputs: Mapping[str, Sequence[Sequence[int]]] | None = None,  # each one's codes, by session
        item_features: Mapping[str, np.ndarray[Any, Any]] | None = None,  # arrays as ITEM_FEATURES_FILE names them
    ) -> Prepared:
        lengths = np.array([len(s) for s in sessions], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

        def flat(rows: Sequence[Sequence[int]] | None) -> np.ndarray[Any, Any]:
            return np.array([i for row in rows for i in row] if rows else [0] * offsets[-1], dtype=np.int64)

        item_index = flat(sessions)
        num_items = num_items or int(item_index.max(initial=1))
        train_end = offsets[:-1] + (lengths if train is None else np.array(train, dtype=np.int64))
        validation_end = offsets[1:] if validation is None else train_end + np.array(validation, dtype=np.int64)
        directory = tmp_path_factory.mktemp("prepared")
        counts = np.bincount(item_index, minlength=num_items + 1)[1:]
        ids = [f"item-{i}" for i in range(1, num_items + 1)]
        pq.write_table(pa.table({"item_id": ids, "train_count": counts}), directory / CATALOGUE_FILE)
        arrays = {
            "item_index": item_index,
            "event_type": flat(types),
            "timestamp": np.arange(offsets[-1]) if timestamps is None else flat(timestamps),
            "offsets": offsets,
            "train_end": train_end,
            "validation_end": validation_end,
            "returning": np.zeros(len(offsets) - 1),
        }
        for name, dtype in ARRAYS.items():
            np.save(directory / f"{name}.npy", arrays[name].astype(dtype), allow_pickle=False)
        sizes = {}
        for name, rows in (inputs or {}).items():
            codes = flat(rows)
            sizes[name] = int(codes.max(initial=0)) + 1
            np.save(directory / input_file(name), codes.astype(np.uint16), allow_pickle=False)
        np.savez(directory / ITEM_FEATURES_FILE, **(item_features or {}))
        forms = {}
        for key, array in (item_features or {}).items():
            name, _, part = key.rpartition(".")
            if part == "codes":
                forms[name] = {"form": "bags", "size": int(array.max(initial=0)) + 1}
            elif part == "values":
                forms[name] = {"form": "dense", "size": array.shape[1]}
        clock = {"time_zone": "UTC", "event_types": list(event_types), "input_types": [*range(1, len(event_types) + 1)]}
        write_json(directory / FEATURES_FILE, {**clock, "events": {}, "items": {}})
        manifest = {
            "num_items": num_items,
            "event_types": list(event_types),
            "inputs": sizes,
            "item_features": forms,
        }
        write_prepared(directory, manifest)
        return open_prepared(directory)

    return make


@pytest.fixture(scope="session")
def make_tower() -> MakeTower:
    """A small user tower by name."""

    def make(name: str, dim: int, dropout: float = 0.0, max_length: int = 12) -> torch.nn.Module:
        if name == "mean_pool":
            return MeanPoolTower(dim, dropout)
        if name == "gru":
            return GRUTower(dim, 1, dropout)
        if name == "linear_recurrence":
            return LinearRecurrenceTower(dim, 2, dropout)
        new, timed = name != "plain_transformer", name == "timed_transformer"
        return TransformerTower(dim, 2, 2, dropout, max_length, gated=new, relative_position=new, time_bias=timed)

    return make


@pytest.fixture(scope="session")
def make_module(make_tower: MakeTower) -> MakeModule:
    """A module for what `loader` delivers; all items are negatives unless `uniform` says how many to draw."""

    def make(
        loader: SessionLoader,
        tower: str,
        epochs: int,
        dim: int = 16,
        normalize: bool = True,
        dropout: float = 0.0,
        uniform: int = 0,
        learning_rate: float = 0.02,
        ks: Sequence[int] = (1, 5),
        seed: int = 0,
        features: bool = False,  # the item tower learns from item features, too
        matryoshka: Sequence[int] = (),
        tied: bool = True,  # histories have the candidates' item vectors
        asks: bool = False,  # with a pointer, for the event type that is asked for
        query_time: bool = False,  # with a pointer, at the moment that is asked about; of loaders with the input `time`
    ) -> TwoTowerModule:
        torch.manual_seed(seed)
        counts = torch.from_numpy(loader.target_counts())
        num_items, sizes = loader.prepared.num_items, loader.prepared.manifest["inputs"]
        items: torch.nn.Module = IdItemTower(num_items, dim, normalize)
        if features:
            items = FeatureItemTower(num_items, dim, normalize, read_item_features(loader.prepared.path), None, 0.0)
        events = EventInputs({name: TIME_SIZE if name == TIME else sizes[name] for name in loader.inputs}, dim)
        users = make_tower(tower, dim, dropout, loader.max_length)
        history = None if tied else IdItemTower(num_items, dim, normalize)
        temperature, event_types = 0.1 if normalize else 1.0, loader.prepared.event_types
        pointer = Pointer(dim, loader.max_length, temperature, age=query_time) if asks or query_time else None
        asking = pointer, Objective(len(event_types), dim) if asks else None, query_time
        return TwoTowerModule(
            model=TwoTower(items, events, users, None, normalize, history, *asking),
            negatives=MixtureNegatives(counts, uniform, True) if uniform else CatalogueNegatives(counts),
            loss=softmax,
            temperature=temperature,
            optimizer=partial(adamw, learning_rate=learning_rate, weight_decay=0.0, warmup_fraction=0.05),
            total_steps=len(loader) * epochs,
            ks=ks,
            event_types=event_types,
            matryoshka=matryoshka,
        )

    return make


@pytest.fixture(scope="session")
def make_trainer() -> MakeTrainer:
    """A quiet trainer on the CPU that writes nothing of its own accord."""

    def make(epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=list(callbacks),
            logger=False,
            plugins=[Checkpoints()],
            enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )

    return make


@pytest.fixture
def quiet() -> Iterator[None]:
    """Levels that the command gives to other libraries' loggers, taken back."""
    names = ("pytorch_lightning", "faiss.loader")
    levels = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)
