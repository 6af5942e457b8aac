"""One job of prepare.py in one process: python contestants.py JOB EVENTS WORK MEMORY_GIB. Prints one line of JSON.

Each job is timed from the files to its result, imports left out. A peer's job runs in the interpreter that has the
peer, so every import but the standard library's is inside a job, and nothing of ours is needed there.
"""

import json
import logging
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import peak_bytes

REPOSITORY = Path(__file__).resolve().parents[2]
COLUMNS = ["session_id", "item_id", "timestamp"]  # what every contestant needs of the events
MAX_LENGTH = 20  # the longest history that a peer lays out


class Clock(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.perf_counter()
        yield
        self[name] = time.perf_counter() - began


def make(events: Path, work: Path, count: int) -> dict[str, Any]:
    """Generate a marketplace of about `count` events."""
    from twotower.data.synthetic import MEAN_LENGTH, Marketplace, generate

    sessions = round(count / MEAN_LENGTH)
    items = min(300_000, max(3_000, sessions // 32))
    market = Marketplace(items=items, users=max(100, sessions // 5), sessions=sessions, days=60)
    generate(events.parent, market, oracle=False)
    return {}


def take(events: Path, work: Path, count: int) -> dict[str, Any]:
    """Copy the first `count` rows to work/*.parquet."""
    import polars as pl

    left = count
    for file in sorted(events.rglob("*.parquet")):
        frame = pl.read_parquet(file).head(left)
        frame.write_parquet(work / file.name)
        left -= frame.height
        if left == 0:
            break
    return {"rows": count - left}


def twotower(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """What train.py does before training: composed by Hydra, all of the preparation and its audit, then the loader."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import get_method, instantiate

    from twotower.data.loader import training_loader

    overrides = [
        "data=events",
        f"data.path={events}",
        f"prepared_root={work}",
        f"preparation.memory_gib={memory_gib}",
    ]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        config = compose("train", overrides)
    for node in (config.data, config.preparation):
        get_method(node._target_)  # imports it
    logging.basicConfig(level=logging.INFO)
    clock = Clock()
    with clock.step("build"):
        prepared = instantiate(config.data)
    with clock.step("sequences"):
        training_loader(prepared, MAX_LENGTH, config.positions_per_batch, config.seed)
    rows = prepared.manifest["rows"]
    bytes_written = sum(file.stat().st_size for file in prepared.path.iterdir())
    return {"steps": clock, "rows": rows["read"], "kept": rows["kept"], "bytes_written": bytes_written}


def floor(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """The least that any preparation in memory does: read three columns, sort them by session and time."""
    import polars as pl
    import pyarrow.parquet as pq

    clock, bytes_read = Clock(), 0
    for file in events.rglob("*.parquet"):
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            columns = [metadata.row_group(group).column(c) for c in range(metadata.num_columns)]
            bytes_read += sum(c.total_compressed_size for c in columns if c.path_in_schema in COLUMNS)
    with clock.step("read"):
        frame = pl.scan_parquet(events / "**/*.parquet").select(COLUMNS).collect()
    with clock.step("sort"):
        frame = frame.sort("session_id", "timestamp", maintain_order=True)
    return {"steps": clock, "rows": frame.height, "bytes_read": bytes_read}


def rectools(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """Dataset.construct, then what SASRec's own preparator and loader make of it."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

    clock = Clock()
    with clock.step("read"):
        names = {"session_id": Columns.User, "item_id": Columns.Item, "timestamp": Columns.Datetime}
        frame = pd.read_parquet(events, columns=COLUMNS).rename(columns=names)
        frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="ms")
        frame[Columns.Weight] = 1.0
    with clock.step("build"):
        dataset = Dataset.construct(frame)
    rows = len(frame)
    del frame
    with clock.step("sequences"):
        preparator = SASRecDataPreparator(MAX_LENGTH, batch_size=128, dataloader_num_workers=0)
        preparator.process_dataset_train(dataset)
        preparator.get_dataloader_train()
    return {"steps": clock, "rows": rows}


def recbole(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """The atomic file that it reads, its sequential dataset, its loaders; the evaluation's split is its default's."""
    import numpy as np

    # RecBole 1.2.1 uses names that NumPy 2 has dropped, and ray where no search was asked for.
    for name in ("bool", "int", "float", "complex", "object", "str"):
        if name not in np.__dict__:
            setattr(np, name, getattr(__import__("builtins"), name))
    for old, new in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_")):
        if old not in np.__dict__:
            setattr(np, old, getattr(np, new))
    sys.argv = sys.argv[:1]  # RecBole reads the command line for itself
    try:
        from ray import tune  # noqa: F401
    except Exception:
        ray = types.ModuleType("ray")
        ray.tune = types.ModuleType("ray.tune")  # type: ignore[attr-defined]
        sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    import polars as pl
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    settings = {
        "data_path": str(work),
        "checkpoint_dir": str(work),
        "use_gpu": False,
        "state": "ERROR",
        "show_progress": False,
        "USER_ID_FIELD": "session",
        "ITEM_ID_FIELD": "item",
        "TIME_FIELD": "time",
        "load_col": {"inter": ["session", "item", "time"]},
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "train_neg_sample_args": None,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "group_by": "user",
            "order": "TO",
            "mode": {"valid": "full", "test": "full"},
        },
        "loss_type": "CE",
        "worker": 0,
    }
    clock = Clock()
    with clock.step("read"):
        frame = pl.scan_parquet(events / "**/*.parquet").select(COLUMNS).collect()
    with clock.step("write .inter"):
        (work / "events").mkdir()
        # Seconds since the first event: its floats have 24 bits.
        seconds = (pl.col("timestamp") - pl.col("timestamp").min()) / 1000
        named = {"session:token": "session_id", "item:token": "item_id"}
        atomic = frame.select(**{k: pl.col(v) for k, v in named.items()}, **{"time:float": seconds})
        atomic.write_csv(work / "events" / "events.inter", separator="\t")
    rows = frame.height
    del frame, atomic
    with clock.step("build"):
        config = Config(model="SASRec", dataset="events", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
    with clock.step("sequences"):
        data_preparation(config, dataset)
    return {"steps": clock, "rows": rows}


if __name__ == "__main__":
    job, events, work, number = sys.argv[1:]
    function = {f.__name__: f for f in (make, take, twotower, floor, rectools, recbole)}[job]
    result = function(Path(events), Path(work), int(number) if number.isdigit() else float(number))
    print(json.dumps({**result, "peak_rss_bytes": peak_bytes()}))
