"""The process that latency.py times: it imports the retriever and no more, and asks it on one thread.

    OMP_NUM_THREADS=1 python experiments/benchmarks/timed_retriever.py BUNDLE CALLS

Prints one line of JSON. Shapes: V items, D embedding dim, Q histories.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from twotower.serving.retriever import Retriever

K = 20
LENGTH = 20  # events of a history
WARM_UP = 50
READS = 200


def histories_of(retriever: Retriever) -> list[list[Any]]:
    """Histories of LENGTH item ids, from the golden ones, as many as there are of those."""
    golden = json.loads(retriever.bundle.file("golden.json").read_text())["histories"]
    ids = [event["item_id"] if isinstance(event, dict) else event for history in golden for event in history]
    starts = np.cumsum([0] + [len(history) for history in golden[:-1]])
    return [[ids[(start + i) % len(ids)] for i in range(LENGTH)] for start in starts]


def percentiles(call: Callable[[int], object], calls: int) -> list[float]:
    """Median and 99 % of the milliseconds of call(0), call(1), ..., after a warm-up."""
    taken = []
    for number in range(WARM_UP + calls):
        begin = time.perf_counter()
        call(number)
        taken.append(1000 * (time.perf_counter() - begin))
    return [float(np.percentile(taken[WARM_UP:], q)) for q in (50, 99)]


def recall(retriever: Retriever, histories: Sequence[Sequence[Any]]) -> float:
    """The share of the exact best K that the answers hold; exact is by all scores."""
    row = {item: row for row, item in enumerate(retriever.bundle.item_ids.to_pylist())}
    found = []
    for history in histories:
        (answer,) = retriever.recommend([history], K).ids
        (user,) = retriever.encode([history])
        scores = retriever.bundle.vectors @ user
        worst = np.partition(scores, -K)[-K]
        found.append(np.mean([scores[row[item]] >= worst - 1e-6 for item in answer]))
    return float(np.mean(found))


def read_ms(size: int) -> float:
    """Median milliseconds to read so many bytes again and again, as a scan of an exact index does."""
    values = np.ones(size // 4, dtype=np.float32)
    return percentiles(lambda _: np.dot(values, values), READS)[0]


def tower_floor_ms(retriever: Retriever) -> float:
    """The weights' multiplications for LENGTH events at the speed of a large matrix product."""
    a = np.ones((512, 512), dtype=np.float32)
    product_ms = percentiles(lambda _: a @ a, 50)[0]
    weights = retriever.bundle.file("user_tower.onnx").stat().st_size / 4
    return 2 * weights * LENGTH / (2 * 512**3) * product_ms


def main(bundle: str, calls: int) -> None:
    """Load, answer, measure."""
    retriever = Retriever.load(bundle)
    histories = histories_of(retriever)
    users = retriever.encode(histories)
    index, number = retriever.bundle.index, len(histories)
    whole = percentiles(lambda i: retriever.recommend([histories[i % number]], K), calls)
    tower = percentiles(lambda i: retriever.encode([histories[i % number]]), calls)
    search = percentiles(lambda i: index.search(users[i % number : i % number + 1], K), calls)
    vectors = retriever.bundle.vectors
    facts = retriever.bundle.manifest["index"]
    figures = {
        "items": len(vectors),
        "index": facts["factory"],
        "recall": recall(retriever, histories),
        "p50_ms": whole[0],
        "p99_ms": whole[1],
        "tower_p50_ms": tower[0],
        "tower_p99_ms": tower[1],
        "search_p50_ms": search[0],
        "search_p99_ms": search[1],
        "flat_mb": vectors.nbytes / 1e6,
        "index_mb": retriever.bundle.file("index.faiss").stat().st_size / 1e6,
        "read_flat_ms": read_ms(vectors.nbytes),
        "tower_floor_ms": tower_floor_ms(retriever),
        "without_torch": "torch" not in sys.modules,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
