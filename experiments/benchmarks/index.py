"""What each family of indexes finds, how fast, in how many bytes: the export's own choice, with all families tried.

    python experiments/benchmarks/index.py --items 50000 200000 1000000 --dim 64
    python experiments/benchmarks/index.py --bundle bundles/RUN

Synthetic items are unit vectors in clusters of falling size, a query is the mean of two items of a cluster and noise,
and what comes next is a third item of it. A bundle is asked with the user vectors of its golden histories. Single
queries run on one thread. Prints a table for each catalogue and, as its last line, one line of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import faiss
import numpy as np
from machine import peak_bytes
from rich.console import Console
from rich.table import Table

from twotower.export.choose_index import Choice, choose_index, filter_recall, recipes
from twotower.serving.index import ItemIndex

K = 20
SHARES = (0.5, 0.1, 0.01)  # of the items, that filters allow by chance


def catalogue(items: int, dim: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [V, D], queries [Q, D] and the row of what comes next [Q]."""
    random = np.random.default_rng(seed)
    clusters = max(1, round(items**0.5))
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)  # learned tables have few strong directions
    centre = random.standard_normal((clusters, dim), dtype=np.float32) * spectrum
    share = 1 / np.arange(1, clusters + 1) ** 0.7
    cluster = np.sort(random.choice(clusters, items, p=share / share.sum()))
    vectors = random.standard_normal((items, dim), dtype=np.float32) * spectrum
    vectors *= 0.7
    vectors += centre[cluster]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    begin, end = np.searchsorted(cluster, cluster, "left"), np.searchsorted(cluster, cluster, "right")
    first = random.integers(items, size=queries)
    second, target = (begin[first] + (random.random(queries) * (end - begin)[first]).astype(int) for _ in range(2))
    users = vectors[first] + vectors[second] + 0.2 * spectrum * random.standard_normal((queries, dim), dtype=np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    order = random.permutation(items)  # a catalogue's order says nothing of its clusters
    place = np.argsort(order)
    return vectors[order], users.astype(np.float32), place[target]


def of_bundle(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same from a bundle; what came next is not in it."""
    from twotower.core.files import read_json
    from twotower.serving.bundle_format import GOLDEN_FILE
    from twotower.serving.retriever import Retriever

    retriever = Retriever.load(path)
    histories = read_json(retriever.bundle.file(GOLDEN_FILE), "a bundle")["histories"]
    users = retriever.encode([[e["item_id"] if isinstance(e, dict) else e for e in history] for history in histories])
    users = users[~np.isnan(users[:, 0])]
    return retriever.bundle.vectors, users, np.full(len(users), -1)


def show(title: str, choice: Choice, filters: list[dict], console: Console) -> None:
    names = ["index", "search", "rerank", "recall@20", "next item", "p50 ms", "p99 ms", "bytes an item", "build s"]
    table = Table(*names, title=title)
    for row in choice.facts["tried"]:
        chosen = all(row[name] == choice.facts[name] for name in ("factory", "search", "rerank"))
        search = ", ".join(f"{name} {value}" for name, value in row["search"].items())
        cells = [row["factory"], search, f"{row['rerank']}", f"{row['recall']:.4f}", f"{row['label_recall']:.4f}"]
        cells += [
            f"{row['p50_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['bytes_per_item']:,.0f}",
            f"{row['build_s']:.1f}",
        ]
        table.add_row(*cells, style="bold" if chosen else None)
    console.print(table)
    console.print(choice.facts["reason"])
    for row in filters:
        console.print(f"filter {row['filter']}: recall@20 {row['recall']:.4f}, p50 {row['p50_ms']:.3f} ms")


def main() -> None:
    """Choose for each catalogue."""
    families = list(recipes(1000, 64))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--queries", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--bundle", type=Path, help="instead of synthetic items")
    parser.add_argument("--families", nargs="+", default=families, help="default: %(default)s")
    parser.add_argument("--target", type=float, default=0.99, help="recall, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"families": options.families, "target_recall": options.target, "exact_below": 0}
    console = Console(width=120)
    results = []
    for items in [None] if options.bundle else options.items:
        source = catalogue(items, options.dim, options.queries, options.seed) if items else of_bundle(options.bundle)
        vectors, queries, target = source
        begin = time.perf_counter()
        choice = choose_index(vectors, queries, target, settings)
        seconds = time.perf_counter() - begin
        chosen = ItemIndex(choice.index, vectors, choice.facts["search"], choice.facts["rerank"])
        random = np.random.default_rng(options.seed)
        masks = {f"{share:.0%} by chance": random.random(len(vectors)) < share for share in SHARES}
        filters = filter_recall(chosen, vectors, queries, K, masks)
        show(f"{len(vectors):,} items of dim {vectors.shape[1]}, {len(queries)} queries", choice, filters, console)
        console.print(f"all of it took {seconds:.0f} s; peak RSS so far {peak_bytes() / 2**30:.2f} GiB")
        shape = {"items": len(vectors), "dim": vectors.shape[1], "queries": len(queries)}
        results.append({**shape, "seconds": round(seconds, 1), "filters": filters, **choice.facts})
    print(json.dumps({"threads": faiss.omp_get_max_threads(), "peak_rss_bytes": peak_bytes(), "catalogues": results}))


if __name__ == "__main__":
    main()
