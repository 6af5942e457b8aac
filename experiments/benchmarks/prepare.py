"""How fast events in Parquet become something to train on: twotower, RecBole and RecTools on the same events.

    python experiments/benchmarks/prepare.py --sizes 1,5,20 --recbole-python A/bin/python --rectools-python B/bin/python
    python experiments/benchmarks/prepare.py --sizes 10 --incremental

Every measurement is a fresh process on two cores, timed from the files to its result, imports left out. A package that
fails or passes the time limit at one size is not asked for a larger one. "build" is a package's data set, "sequences"
what its trainer then waits for. Prints a table and, as its last line, one line of JSON.

The jobs below run in the interpreter of their package: every import but the standard library's is inside a job.
"""

import json
import logging
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import GIB, ROOT, command_line, peak_bytes, report, run_job

COLUMNS = ["session_id", "item_id", "timestamp"]  # what every package needs of the events
MAX_LENGTH = 20  # the longest history that a package lays out
MILLION = 10**6


class Steps(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.perf_counter()
        yield
        self[name] = time.perf_counter() - began


def make(events: Path, work: Path, count: float) -> dict[str, Any]:
    """Generate a marketplace of about `count` events."""
    from twotower.data.synthetic import MEAN_LENGTH, Marketplace, generate

    sessions = round(count / MEAN_LENGTH)
    items = min(300_000, max(3_000, sessions // 32))
    market = Marketplace(items=items, users=max(100, sessions // 5), sessions=sessions, days=60)
    generate(events.parent, market, oracle=False)
    return {}


def take(events: Path, work: Path, count: float) -> dict[str, Any]:
    """Copy the first `count` rows to work/*.parquet."""
    import polars as pl

    left = round(count)
    for file in sorted(events.rglob("*.parquet")):
        frame = pl.read_parquet(file).head(left)
        frame.write_parquet(work / file.name)
        left -= frame.height
        if left == 0:
            break
    return {}


def more(events: Path, work: Path, count: float) -> dict[str, Any]:
    """Copy the hundredth that follows the first `count` rows to work/more.parquet."""
    import polars as pl

    new = pl.scan_parquet(sorted(events.rglob("*.parquet"))).slice(round(count), round(count / 100)).collect()
    new.write_parquet(work / "more.parquet")
    return {}


def store(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """The same as `twotower`, with a store beside the events, so that only new files of events are read."""
    return twotower(events, work, memory_gib, f"preparation.store={events}-store")


def twotower(events: Path, work: Path, memory_gib: float, *more: str) -> dict[str, Any]:
    """What `twotower train` does before training: the whole preparation with its audit, then the loader."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import get_method, instantiate

    from twotower.data.loader import training_loader

    overrides = ["data=events", f"data.path={events}", f"prepared_root={work}", f"preparation.memory_gib={memory_gib}"]
    overrides += more
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("train", overrides)
    for node in (config.data, config.preparation):
        get_method(node._target_)  # imports it
    logging.basicConfig(level=logging.INFO)
    steps = Steps()
    with steps.step("build"):
        prepared = instantiate(config.data)
    with steps.step("sequences"):
        training_loader(prepared, MAX_LENGTH, positions_per_batch=512, seed=config.seed)
    written = sum(file.stat().st_size for file in prepared.path.iterdir())
    return {
        "steps": steps,
        "events": prepared.manifest["rows"]["read"],
        "MB written": written / MILLION,
        "fingerprint": prepared.manifest["fingerprint"],
    }


def floor(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """The least that any preparation in memory does: read three columns, sort them by session and time."""
    import polars as pl

    steps = Steps()
    with steps.step("read"):
        frame = pl.scan_parquet(events / "**/*.parquet").select(COLUMNS).collect()
    with steps.step("sort"):
        frame = frame.sort("session_id", "timestamp", maintain_order=True)
    return {"steps": steps, "events": frame.height}


def rectools(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """Dataset.construct, then SASRec's own preparator and loader."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models.nn.transformers.sasrec import SASRecDataPreparator

    steps = Steps()
    with steps.step("read"):
        names = {"session_id": Columns.User, "item_id": Columns.Item, "timestamp": Columns.Datetime}
        frame = pd.read_parquet(events, columns=COLUMNS).rename(columns=names)
        frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="ms")
        frame[Columns.Weight] = 1.0
    with steps.step("build"):
        dataset = Dataset.construct(frame)
    count = len(frame)
    del frame
    with steps.step("sequences"):
        preparator = SASRecDataPreparator(MAX_LENGTH, batch_size=128, dataloader_num_workers=0)
        preparator.process_dataset_train(dataset)
        preparator.get_dataloader_train()
    return {"steps": steps, "events": count}


def recbole(events: Path, work: Path, memory_gib: float) -> dict[str, Any]:
    """The atomic file that it reads, its sequential dataset and its loaders."""
    import numpy as np

    # RecBole 1.2.1 uses names that NumPy 2 has dropped, and ray where no search was asked for.
    for name in ("bool", "int", "float", "complex", "object", "str"):
        if name not in np.__dict__:
            setattr(np, name, getattr(__import__("builtins"), name))
    for old, new in (("float_", "float64"), ("complex_", "complex128"), ("unicode_", "str_")):
        if old not in np.__dict__:
            setattr(np, old, getattr(np, new))
    sys.argv = sys.argv[:1]  # RecBole reads the command line itself
    try:
        from ray import tune  # noqa: F401
    except Exception:
        ray: Any = types.ModuleType("ray")
        ray.tune = types.ModuleType("ray.tune")
        sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    import polars as pl
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    settings = {
        "data_path": str(work), "checkpoint_dir": str(work), "use_gpu": False, "state": "ERROR",
        "show_progress": False, "USER_ID_FIELD": "session", "ITEM_ID_FIELD": "item", "TIME_FIELD": "time",
        "load_col": {"inter": ["session", "item", "time"]}, "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "train_neg_sample_args": None, "loss_type": "CE", "worker": 0,
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO",
                      "mode": {"valid": "full", "test": "full"}},
    }  # fmt: skip
    steps = Steps()
    with steps.step("read"):
        frame = pl.scan_parquet(events / "**/*.parquet").select(COLUMNS).collect()
    with steps.step("write .inter"):
        (work / "events").mkdir()
        # Seconds since the first event: its floats have 24 bits.
        seconds = (pl.col("timestamp") - pl.col("timestamp").min()) / 1000
        named = {"session:token": pl.col("session_id"), "item:token": pl.col("item_id"), "time:float": seconds}
        frame.select(**named).write_csv(work / "events" / "events.inter", separator="\t")
    count = frame.height
    del frame
    with steps.step("build"):
        config = Config(model="SASRec", dataset="events", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
    with steps.step("sequences"):
        data_preparation(config, dataset)
    return {"steps": steps, "events": count}


JOBS = {job.__name__: job for job in (make, take, more, store, twotower, floor, rectools, recbole)}

STORED = {"into a store": "store", "increment": "store", "whole": "twotower"}  # jobs of --incremental


def main() -> None:
    """Measure every package at every size."""
    parser = command_line(__doc__)
    parser.add_argument("--events", type=Path, help="folder of Parquet events; without it a marketplace is generated")
    parser.add_argument("--sizes", default="1,5,20", help="millions of events, the first ones")
    parser.add_argument("--recbole-python", help="an interpreter that has recbole and polars")
    parser.add_argument("--rectools-python", help="an interpreter that has rectools[torch] and pyarrow")
    parser.add_argument("--memory-gib", type=float, default=2, help="preparation.memory_gib of twotower")
    parser.add_argument(
        "--incremental", action="store_true", help="twotower alone: a hundredth of new events on a store"
    )
    parser.add_argument("--cores", type=int, default=2, help="of each process")
    parser.add_argument("--limit-s", type=float, default=600, help="of each process")
    options = parser.parse_args()
    pythons = {"floor": sys.executable, "twotower": sys.executable}
    pythons |= {"recbole": options.recbole_python, "rectools": options.rectools_python}
    if options.incremental:
        pythons = dict.fromkeys(STORED, sys.executable)
    sizes = sorted(float(size) for size in options.sizes.split(","))

    def run(python: str, job: str, events: Path, work: Path, number: float) -> dict[str, Any]:
        command = [python, "-W", "ignore", __file__, "--job", job, events.resolve(), work, str(number)]
        done = run_job(command, cwd=work, cores=options.cores, limit_s=options.limit_s)
        if job in ("make", "take", "more") and done.outcome != "ok":
            sys.exit(f"{job} of {events}: {done.outcome}")
        return {"outcome": done.outcome, **done.figures()}

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
        source = options.events or Path(folder, "marketplace", "events")
        if not options.events:
            run(sys.executable, "make", source, Path(folder), sizes[-1] * MILLION * 1.02)
        for size in sizes:
            events = Path(folder, f"events-{size:g}")
            events.mkdir()
            run(sys.executable, "take", source, events, size * MILLION)
            for name, python in pythons.items():
                if not python or any(row["package"] == name and row["outcome"] != "ok" for row in rows):
                    continue
                if name == "increment":
                    run(sys.executable, "more", source, events, size * MILLION)
                with tempfile.TemporaryDirectory(dir=folder) as work:
                    result = run(python, STORED.get(name, name), events, Path(work), options.memory_gib)
                steps = result.pop("steps", {})
                row = {"package": name, "millions": size, **result, **{f"{step} s": s for step, s in steps.items()}}
                if steps:
                    total = sum(steps.values())
                    row |= {"total s": total, "events/s": result["events"] / total}
                rows.append(row)
    ours = "whole" if options.incremental else "twotower"
    seconds = {row["millions"]: row["total s"] for row in rows if row["package"] == ours and "total s" in row}
    for row in rows:
        if "total s" in row and row["millions"] in seconds:
            row[f"times {ours}"] = row["total s"] / seconds[row["millions"]]
    report(rows, cores=options.cores, memory_gib=options.memory_gib)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        job, events, work, number = sys.argv[2:]
        result = JOBS[job](Path(events), Path(work), float(number))
        print(json.dumps({**result, "peak RSS GiB": peak_bytes() / GIB}))
    else:
        main()
