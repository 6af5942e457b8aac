"""How long does a whole test take: every query against the whole catalogue, baselines, slices, intervals, report?

    python experiments/benchmarks/evaluation.py RUN experiment=diginetica data.path=.../events.parquet

Runs `train.py evaluate=RUN logger=none` with the given settings in a process of its own. Prints where the time went and
the peak memory, and as its last line one line of JSON. Data that is prepared already is not prepared again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
GOAL_S = 60.0


def main() -> None:
    """Time it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", help="settings of train.py: the data")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        arguments = [
            f"evaluate={options.run.resolve()}",
            "logger=none",
            f"run_dir={folder}/out",
            f"hydra.run.dir={folder}/out",
        ]
        command = [sys.executable, str(ROOT / "train.py"), *options.overrides, *arguments]
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)}, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        if status:
            sys.exit("the evaluation failed; its message stands above")
        metrics = json.loads((Path(folder) / "out" / "metrics.json").read_text())
    queries = metrics["test/queries"]
    parts = {"the model": queries / metrics["test/queries_per_second"]}
    for key in metrics:
        if key.startswith("baseline/") and key.endswith("/queries_per_second"):
            name = key.split("/")[1]
            parts[name] = metrics[f"baseline/{name}/fit_seconds"] + queries / metrics[key]
    parts["start, data, slices, intervals, report"] = seconds - sum(parts.values())
    table = Table(f"{queries:,} queries", "seconds")
    for name, part in parts.items():
        table.add_row(name, f"{part:.1f}")
    table.add_row("all", f"{seconds:.1f}", style="bold")
    console = Console()
    console.print(table)
    reached = "reached" if seconds < GOAL_S else "MISSED"
    console.print(f"goal: under {GOAL_S:.0f} s: {reached}; peak RSS {usage.ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps({"queries": queries, "seconds": seconds, "parts": parts, "peak_rss_gib": usage.ru_maxrss / 2**20}))


if __name__ == "__main__":
    main()
