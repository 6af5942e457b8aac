"""A small run directory with random weights, as train.py would leave one: V items, E events."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from composed import composed
from omegaconf import OmegaConf

from twotower import features
from twotower.core.files import write_json
from twotower.core.schema import (
    ARRAYS,
    CATALOGUE_FILE,
    FEATURES_FILE,
    ITEM_FEATURES_FILE,
    input_file,
    open_prepared,
    read_item_features,
    write_prepared,
)
from twotower.runs import build, run
from twotower.runs.checkpoint import write_checkpoint

MakeRun = Callable[..., Path]
TYPES = ["cart", "purchase", "view"]
DEVICES = ["phone", "tablet", "desktop"]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Write the run of an untrained model for a catalogue of these ids."""

    def make(ids: list[Any], *overrides: str, seed: int = 0) -> Path:
        directory = tmp_path_factory.mktemp("run")
        random = np.random.default_rng(seed)
        lengths = random.integers(2, 9, 30)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = random.integers(1, len(ids) + 1, offsets[-1])
        prepared = tmp_path_factory.mktemp("prepared")
        counts = pa.array(np.bincount(items, minlength=len(ids) + 1)[1:])
        catalogue = pa.table({"item_id": ids, "train_count": counts, "age_days": np.arange(len(ids))})
        pq.write_table(catalogue, prepared / CATALOGUE_FILE)
        arrays = {
            "item_index": items,
            "event_type": random.integers(0, len(TYPES), len(items)),
            "timestamp": 1_700_000_000_000 + np.exp2(random.uniform(0, 30, len(items))).cumsum().astype(np.int64),
            "offsets": offsets,
            "train_end": offsets[:-1],
            "validation_end": offsets[1:],
            "returning": np.zeros(len(offsets) - 1),
        }
        for name, dtype in ARRAYS.items():
            np.save(prepared / f"{name}.npy", arrays[name].astype(dtype))
        device = features.fit("events.device", {"kind": "categorical"}, DEVICES, [5, 3, 2])
        sizes = {"event_type": len(TYPES) + 1, "gap": 64, "hour": 25, "weekday": 8}
        sizes["device"] = features.form(device)["size"]
        for name, size in sizes.items():
            np.save(prepared / input_file(name), random.integers(0, size, len(items)).astype(np.uint8))
        clock = {"time_zone": "Europe/Berlin", "event_types": TYPES, "input_types": [1, 2, 3]}
        write_json(prepared / FEATURES_FILE, {**clock, "events": {"device": device}, "items": {}})
        bags = np.concatenate([[0], np.cumsum(random.integers(0, 4, len(ids)))])
        category = random.integers(0, 7, bags[-1]).astype(np.int32)
        price = random.normal(size=(len(ids), 2)).astype(np.float32)
        item_features = {"category.codes": category, "category.offsets": bags, "price.values": price}
        np.savez(prepared / ITEM_FEATURES_FILE, **item_features)
        forms = {"category": {"form": "bags", "size": 7}, "price": {"form": "dense", "size": 2}}
        facts = {"num_items": len(ids), "event_types": TYPES, "inputs": sizes, "item_features": forms}
        write_prepared(prepared, facts)
        small = ["data=prepared", "data.path=P", "logger=none", "model.dim=16", "model.max_length=6"]
        config = composed(*small, *overrides)
        config.run_dir, config.name, config.data.path = str(directory), "tiny", str(prepared)
        opened = open_prepared(prepared)
        run.write_config(directory, OmegaConf.to_yaml(config, resolve=True))
        tested = np.setdiff1d(np.arange(1, offsets[-1]), offsets)[::2]  # an untrained model has learnt nothing
        run.begin_run(directory, config.model, opened, tested)
        torch.manual_seed(seed)
        model = build.build_model(config.model, opened.manifest, read_item_features(prepared))
        for embedding in model.event_inputs.embeddings:  # they start at zero, and would not be seen
            torch.nn.init.normal_(embedding.weight)
        with torch.no_grad():  # so do biases of attention
            for parameter in [
                parameter
                for part in (model.user_tower, model.pointer, model.objective)
                for parameter in (part.parameters() if part else ())
            ]:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        weights = {f"model.{name}": value for name, value in model.state_dict().items()}
        write_checkpoint(directory / "checkpoints" / "last.safetensors", {"state_dict": weights})
        return directory

    return make
