"""How long does an answer take on one thread, in process and through `mlflow models serve`?

    python experiments/benchmarks/latency.py --items 50000 1000000
    python experiments/benchmarks/latency.py --bundle bundles/shop

Makes bundles of an untrained model (made_bundle.py) or takes yours, and asks for 20 items after a history of 20. In
process: a fresh one that imports the retriever alone. Through the server: one worker of one thread, one connection on
loopback that stays open. Beside them stand floors: to read the vectors once, as an exact search must; the tower's
multiplications; and the server's answer to /ping. Prints a table and, as its last line, one line of JSON; ends with
status 1 where a target is missed.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import command_line, percentiles, report, run_job

from twotower.serving.exact_search import exact_top_k
from twotower.serving.retriever import Retriever
from twotower.serving.users import Users

K = 20
LENGTH = 20  # events of a history
SMALL = 100_000  # items up to which the targets of small catalogues hold
P50_MS, P99_MS, SERVED_MS, RECALL = 1.0, 5.0, 3.0, 0.99


def fixed_histories(retriever: Retriever) -> list[list[Any]]:
    """Histories of LENGTH item ids, made of the golden ones, as many as there are of those."""
    golden = json.loads(retriever.bundle.file("golden.json").read_text())["histories"]
    ids = [event["item_id"] if isinstance(event, dict) else event for history in golden for event in history]
    starts = np.cumsum([0] + [len(history) for history in golden[:-1]])
    return [[ids[(start + i) % len(ids)] for i in range(LENGTH)] for start in starts]


def recall(retriever: Retriever, histories: Sequence[Sequence[Any]]) -> float:
    """The share of the exact best K, by all scores, that the answers hold."""
    _, scores = exact_top_k(encoded(retriever, histories), retriever.bundle.vectors, K)
    found = retriever.recommend(histories, K).scores
    return float(np.mean(found >= scores[:, -1:] - 1e-6))


def encoded(retriever: Retriever, histories: Sequence[Sequence[Any]]) -> Users:
    """User vectors, and what the pointer adds."""
    return retriever._encode(retriever._read(histories, None, None))


def measure(bundle: str, calls: int) -> dict[str, Any]:
    """All figures in this process, in milliseconds unless said."""
    retriever = Retriever.load(bundle)
    histories = fixed_histories(retriever)
    users, vectors = encoded(retriever, histories), retriever.bundle.vectors
    index, number = retriever.bundle.index, len(histories)
    whole = percentiles(lambda i: retriever.recommend([histories[i % number]], K), calls)
    tower = percentiles(lambda i: retriever.encode([histories[i % number]]), calls)
    search = percentiles(lambda i: index.search(users[i % number : i % number + 1], K), calls)
    square, flat = np.ones((512, 512), dtype=np.float32), np.ones(vectors.size, dtype=np.float32)
    product_ms = percentiles(lambda _: square @ square, 50)[0]
    weights = retriever.bundle.file("user_tower.onnx").stat().st_size / 4
    return {
        "items": len(vectors),
        "index": retriever.bundle.manifest["index"]["factory"],
        "recall@20 against exact search": recall(retriever, histories),
        "recommend, p50": whole[0],
        "recommend, p99": whole[1],
        "  user tower, p50": tower[0],
        "  user tower, p99": tower[1],
        "  floor: its multiplications": 2 * weights * LENGTH / (2 * 512**3) * product_ms,
        "  search, p50": search[0],
        "  search, p99": search[1],
        "  floor of an exact one: read the vectors": percentiles(lambda _: np.dot(flat, flat), 200)[0],
        "vectors, MB": vectors.nbytes / 1e6,
        "index.faiss, MB": retriever.bundle.file("index.faiss").stat().st_size / 1e6,
        "torch is not loaded": "torch" not in sys.modules,
    }


def measure_served(bundle: Path, calls: int, scratch: Path) -> dict[str, float]:
    """Milliseconds through MLflow's server."""
    from served import MLFLOW, Client, encoded, serve

    from twotower.tracking.registry import save_model

    save_model(bundle, scratch / "model")
    histories = fixed_histories(Retriever.load(bundle))
    with serve(MLFLOW, scratch / "model", scratch / "server.log") as server:
        client = Client(server.port)
        requests = [encoded(server.route, {"inputs": [each], "params": {"k": K}}) for each in histories]

        def ask(number: int) -> None:
            reply = client.send(requests[number % len(requests)])
            assert reply.status == 200, reply.body

        p50, p99 = percentiles(ask, calls)
        ping, _ = percentiles(lambda _: client.send(encoded("/ping", None)), 500)
    return {"served, p50": p50, "served, p99": p99, "  floor: the server's /ping, p50": ping}


def missed(figures: dict[str, Any]) -> list[str]:
    """The targets that are not met."""
    p50, p99, served = (figures[name] for name in ("recommend, p50", "recommend, p99", "served, p50"))
    share = figures["recall@20 against exact search"]
    claims = {f"recall {share:.4f}, target {RECALL}": share >= RECALL}
    claims[f"p99 {p99:.2f} ms, target {P99_MS}"] = p99 <= P99_MS
    claims[f"p50 {p50:.2f} ms, target {P50_MS}"] = p50 <= P50_MS or figures["items"] > SMALL
    claims[f"served p50 {served:.2f} ms, target {SERVED_MS}"] = served <= SERVED_MS
    return [f"{figures['items']:,} items: {claim}" for claim, holds in claims.items() if not holds]


def main() -> int:
    """Measure each bundle; 0: all targets are met."""
    parser = command_line(__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--bundle", type=Path, help="in place of made ones")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--here", help="measure this bundle in this process")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.here, options.calls)))
        return 0
    results = []
    for items in [0] if options.bundle else options.items:
        with tempfile.TemporaryDirectory(prefix="latency-") as folder:
            bundle = options.bundle
            if bundle is None:
                from made_bundle import make_bundle

                bundle = make_bundle(Path(folder, "bundle"), items)
                plain = make_bundle(Path(folder, "plain"), items, pointer=False)
            figures: dict[str, Any] = {}
            for command in ([__file__, "--calls", str(options.calls), "--here"], ["-m", "twotower.serving.measure"]):
                job = run_job([sys.executable, *command, bundle], env={"OMP_NUM_THREADS": "1"})
                if job.outcome != "ok":
                    sys.exit(job.outcome)
                cold = {"start to first answer, s": "cold_start_s", "peak memory until then, MB": "peak_memory_mb"}
                result = job.figures()
                figures |= {name: result[key] for name, key in cold.items()} if "cold_start_s" in result else result
            if options.bundle is None:
                job = run_job([sys.executable, __file__, "--here", plain], env={"OMP_NUM_THREADS": "1"})
                figures["  without a pointer, p50"] = job.figures()["recommend, p50"]
            results.append({**figures, **measure_served(bundle, options.calls, Path(folder))})
    rows = [{"ms, one thread": name, **{f"{r['items']:,} items": r[name] for r in results}} for name in results[0]]
    misses = [claim for result in results for claim in missed(result)]
    report(rows, "; ".join(misses) or "all targets are met", missed=misses)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
