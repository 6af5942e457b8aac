"""What does the test of a model take when the catalogue has millions of items?

    python experiments/benchmarks/large_catalogue.py --items 5000000

Makes an event log in which each item occurs, trains one step with lazy AdamW, tests that run by `train.py evaluate=`
in a process of its own: the model, seven baselines, slices, intervals, lists, report. Prints seconds and peak memory
beside the floor, which is the vectors alone, and as its last line one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
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
    """Train one step, then test once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=5_000_000, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--queries", type=int, default=1000, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        write_events(Path(folder) / "events.parquet", options.items, options.queries)
        data = ["data=events", f"data.path={folder}/events.parquet", "split=predefined", "logger=none", "refit=false"]
        data += [f"prepared_root={folder}/prepared", "evaluation.positions_per_batch=256", "optimizer=lazy_adamw"]
        small = [f"model.dim={options.dim}", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
        small += ["evaluation.baselines=false", f"run_dir={folder}/run", f"hydra.run.dir={folder}/run"]
        _call([*data, *small])
        again = [f"evaluate={folder}/run", f"run_dir={folder}/out", f"hydra.run.dir={folder}/out"]
        seconds, peak = _call([*data, *again])
        metrics = json.loads((Path(folder) / "out" / "metrics.json").read_text())
    queries, floor = metrics["test/queries"], 4 * options.items * options.dim / 2**30
    table = Table(f"{options.items:,} items, {queries:,} queries", "")
    table.add_row("seconds, all", f"{seconds:.0f}")
    table.add_row("queries/s of the model", f"{metrics['test/queries_per_second']:.0f}")
    table.add_row("peak RSS, GiB", f"{peak:.2f}")
    table.add_row("the vectors once, GiB", f"{floor:.2f}")
    table.add_row("all scores at once would be, GiB", f"{4 * options.items * queries / 2**30:.1f}")
    Console().print(table)
    print(json.dumps({"items": options.items, "queries": queries, "seconds": seconds, "peak_rss_gib": peak}))


def _call(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak GiB of train.py."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], stdout=subprocess.DEVNULL, env=dict(os.environ)
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("train.py failed; its message stands above")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


if __name__ == "__main__":
    main()
