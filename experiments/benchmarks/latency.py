"""How long does an answer take on one thread, in process and through `mlflow models serve`?

    python experiments/benchmarks/latency.py --items 50000 1000000
    python experiments/benchmarks/latency.py --bundle bundles/shop

Makes bundles of a model that is not trained (made_bundle.py) or takes yours, and asks for 20 items after a history of
20. In process: a fresh one that imports the retriever only, with one thread. Through the server: one worker of one
thread, one connection on loopback that stays open. Beside it stand the floors: to read the vectors once, as an exact
search must; the tower's multiplications; and what MLflow's server takes to answer nothing (/ping). Prints tables and,
as its last line, one line of JSON; ends with status 1 where a target is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from made_bundle import make_bundle
from rich.console import Console
from rich.table import Table
from served import Client, serve
from timed_retriever import histories_of, percentiles

from twotower.serving.retriever import Retriever
from twotower.tracking.registry import save_model

HERE = Path(__file__).parent
SMALL = 100_000  # items up to which the targets of small catalogues hold
P50_MS, P99_MS, SERVED_MS, RECALL = 1.0, 5.0, 3.0, 0.99
ROWS = {
    "recall@20 against exact search": ("recall", "{:.4f}"),
    "recommend, p50 ms": ("p50_ms", "{:.3f}"),
    "recommend, p99 ms": ("p99_ms", "{:.3f}"),
    "  user tower, p50 ms": ("tower_p50_ms", "{:.3f}"),
    "  user tower, p99 ms": ("tower_p99_ms", "{:.3f}"),
    "  floor: its multiplications, ms": ("tower_floor_ms", "{:.3f}"),
    "  search, p50 ms": ("search_p50_ms", "{:.3f}"),
    "  search, p99 ms": ("search_p99_ms", "{:.3f}"),
    "  floor of an exact one: read the vectors, ms": ("read_flat_ms", "{:.3f}"),
    "vectors, MB": ("flat_mb", "{:.1f}"),
    "index.faiss, MB": ("index_mb", "{:.1f}"),
    "served, p50 ms": ("served_p50_ms", "{:.3f}"),
    "served, p99 ms": ("served_p99_ms", "{:.3f}"),
    "  floor: the server's /ping, p50 ms": ("ping_p50_ms", "{:.3f}"),
    "start to first answer, s": ("cold_start_s", "{:.2f}"),
    "peak memory until then, MB": ("peak_memory_mb", "{:.0f}"),
    "torch stays out": ("without_torch", "{}"),
}


def main() -> int:
    """Measure each bundle; 0: all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 1_000_000], help="default: %(default)s")
    parser.add_argument("--bundle", type=Path, help="in place of made ones")
    parser.add_argument("--calls", type=int, default=2000, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latency-") as scratch:
        folder = Path(scratch)
        if options.bundle:
            results = [measured(options.bundle, options.calls, folder)]
        else:
            results = [
                measured(make_bundle(folder / f"{items}", items), options.calls, folder) for items in options.items
            ]
    table = Table("one thread, history of 20, k = 20", *(f"{r['items']:,} items, {r['index']}" for r in results))
    for label, (key, form) in ROWS.items():
        table.add_row(label, *(form.format(result[key]) for result in results))
    Console(width=max(100, 50 + 30 * len(results))).print(table)
    missed = [f"{result['items']:,} items: {claim}" for result in results for claim in misses(result)]
    for claim in missed:
        print(f"missed: {claim}")
    print(json.dumps({"results": results, "missed": missed}))
    return 1 if missed else 0


def measured(bundle: Path, calls: int, scratch: Path) -> dict[str, Any]:
    """All figures of one bundle."""
    figures = last_line("-m", "twotower.serving.measure", str(bundle))
    figures |= last_line(str(HERE / "timed_retriever.py"), str(bundle), str(calls))
    model = scratch / f"model-{figures['items']}"
    save_model(bundle, model)
    histories = histories_of(Retriever.load(bundle))
    with serve(model, scratch / "server.log") as server:
        client = Client(server.port)

        def ask(number: int) -> None:
            reply = client.ask({"inputs": [histories[number % len(histories)]], "params": {"k": 20}})
            assert reply.status == 200, reply.body

        p50, p99 = percentiles(ask, calls)
        ping_p50, _ = percentiles(lambda _: client.ping(), 500)
        return {**figures, "served_p50_ms": p50, "served_p99_ms": p99, "ping_p50_ms": ping_p50}


def last_line(*arguments: str) -> dict[str, Any]:
    """What a Python process of one thread prints last."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=one_thread, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def misses(figures: dict[str, Any]) -> list[str]:
    """The targets that are not met."""
    claims = {f"recall {figures['recall']:.4f}, target {RECALL}": figures["recall"] >= RECALL}
    claims[f"p99 {figures['p99_ms']:.2f} ms, target {P99_MS}"] = figures["p99_ms"] <= P99_MS
    if figures["items"] <= SMALL:
        claims[f"p50 {figures['p50_ms']:.2f} ms, target {P50_MS}"] = figures["p50_ms"] <= P50_MS
    claims[f"served p50 {figures['served_p50_ms']:.2f} ms, target {SERVED_MS}"] = figures["served_p50_ms"] <= SERVED_MS
    return [claim for claim, holds in claims.items() if not holds]


if __name__ == "__main__":
    sys.exit(main())
