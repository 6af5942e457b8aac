"""How long does a whole test take: every query against the whole catalogue, baselines, slices, intervals, report?

    python experiments/benchmarks/evaluation.py --run RUN experiment=diginetica data.path=.../events.parquet
    python experiments/benchmarks/evaluation.py --items 5000000

Runs `twotower train evaluate=RUN logger=none` in a process of its own; without RUN on a model of one step's training,
with lazy AdamW, on a log in which each of that many items occurs. Prints where the time went and the peak memory, whose
floor is the vectors alone, and as its last line one line of JSON. Data that is prepared already is not prepared again.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from harness import GIB, ROOT, Job, command_line, report, run_job

from twotower.core.files import read_json

LENGTH = 4  # events a session


def write_events(path: Path, items: int, queries: int) -> None:
    """Sessions that have each item once, sessions of popular items, and as many test sessions as give the queries."""
    random = np.random.default_rng(0)
    once = random.permutation(items) + 1
    popular = np.minimum(random.zipf(1.2, items // 4), items)
    held_out = np.minimum(random.zipf(1.2, 2 * LENGTH * (queries // (LENGTH - 1) + 1)), items)
    item = np.concatenate([once, popular, held_out])
    item = item[: len(item) // LENGTH * LENGTH]
    session = np.arange(len(item)) // LENGTH
    sessions = session[-1] + 1
    tested = len(held_out) // 2 // LENGTH
    part = np.select([session >= sessions - tested, session >= sessions - 2 * tested], ["test", "validation"], "train")
    time_ms = 1_700_000_000_000 + np.arange(len(item)) * 1000
    columns = {"session_id": session, "item_id": item, "timestamp": time_ms, "split": part}
    pl.DataFrame(columns).write_parquet(path)


def main() -> None:
    """Train one step where there is no run, then test once."""
    parser = command_line(__doc__)
    parser.add_argument("--run", type=Path, help="a finished run")
    parser.add_argument("--items", type=int, default=5_000_000, help="of the log that is made without a run")
    parser.add_argument("--dim", type=int, default=64, help="of its vectors")
    parser.add_argument("--queries", type=int, default=1000, help="of its test")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="settings, as for twotower train: the data")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:

        def train(out: str, *settings: str) -> Job:
            directory = [f"run_dir={folder}/{out}", f"hydra.run.dir={folder}/{out}", "logger=none"]
            job = run_job([sys.executable, ROOT / "train.py", *settings, *directory], cores=options.threads)
            return job if job.outcome == "ok" else sys.exit(f"{out}: {job.outcome}")

        run, data = options.run, options.overrides
        if run is None:
            run = Path(folder, "run")
            write_events(Path(folder) / "events.parquet", options.items, options.queries)
            data = [f"data.path={folder}/events.parquet", f"prepared_root={folder}/prepared", *data]
            data += ["data=events", "split=predefined", "evaluation.positions_per_batch=256"]
            small = [f"model.dim={options.dim}", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
            train("run", *data, *small, "optimizer=lazy_adamw", "refit=false", "evaluation.baselines=false")
        job = train("out", *data, f"evaluate={run.resolve()}")
        metrics = read_json(Path(folder) / "out" / "metrics.json", "metrics")
    queries = metrics["test/queries"]
    seconds = {"the model": queries / metrics["test/queries_per_second"]}
    for key in metrics:
        if key.startswith("baseline/") and key.endswith("/queries_per_second"):
            name = key.split("/")[1]
            seconds[name] = metrics[f"baseline/{name}/fit_seconds"] + queries / metrics[key]
    seconds["start, data, slices, intervals, report"] = job.seconds - sum(seconds.values())
    seconds["all"] = job.seconds
    rows = [{"part": name, "seconds": part} for name, part in seconds.items()]
    floor = {} if options.run else {"the vectors once, GiB": 4 * options.items * options.dim / GIB}
    report([*rows, {"part": "peak RSS, GiB", "peak": job.peak_gib}], f"{queries:,} queries", queries=queries, **floor)


if __name__ == "__main__":
    main()
