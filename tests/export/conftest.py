"""A small run directory with random weights, as train.py would leave one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from twotower import run
from twotower.cli import CONF
from twotower.schema import CATALOGUE_FILE, open_prepared, write_prepared

MakeRun = Callable[..., Path]


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
        pq.write_table(pa.table({"item_id": ids, "train_count": counts}), prepared / CATALOGUE_FILE)
        arrays = {
            "item_index": items,
            "event_type": np.zeros(len(items)),
            "timestamp": np.arange(len(items)),
            "offsets": offsets,
            "train_end": offsets[:-1],
            "validation_end": offsets[1:],
        }
        write_prepared(prepared, arrays, {"num_items": len(ids), "event_types": ["event"]})
        settings = [
            f"run_dir={directory}",
            "name=tiny",
            "data=prepared",
            f"data.path={prepared}",
            "logger=none",
        ]
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", [*settings, "model.dim=16", "model.max_length=6", *overrides])
        run.begin_run(directory, config, open_prepared(prepared))
        torch.manual_seed(seed)
        model = run.build_model(config, len(ids))
        weights = {f"model.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": weights}, directory / "checkpoints" / "last.ckpt")
        return directory

    return make
