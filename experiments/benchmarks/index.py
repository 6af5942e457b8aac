"""What each kind of index finds, how fast, in how many bytes: the export's own choice.

    python experiments/benchmarks/index.py --items 50000 200000 1000000 --dim 64
    python experiments/benchmarks/index.py --bundle bundles/RUN

Synthetic items are unit vectors in clusters of falling size, a query is the mean of two items of a cluster and noise.
A bundle is asked with the user vectors of its golden histories. Single queries
run on one thread. Prints tables for each catalogue and, as its last line, one line of JSON.
"""

import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from harness import GIB, command_line, peak_bytes, print_table, report
from latency import fixed_histories

from twotower.exporting.choose_index import choose_index, filter_recall, recipes
from twotower.serving.index import ItemIndex
from twotower.serving.retriever import Retriever

K = 20
SHARES = (0.5, 0.1, 0.01)  # of the items, that filters allow by chance
Catalogue = tuple[np.ndarray, np.ndarray]  # vectors [V, D], queries [Q, D]


def synthetic(items: int, dim: int, queries: int, seed: int) -> Catalogue:
    """Items in clusters, in an order that says nothing of them."""
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
    second = begin[first] + (random.random(queries) * (end - begin)[first]).astype(int)
    users = vectors[first] + vectors[second] + 0.2 * spectrum * random.standard_normal((queries, dim), dtype=np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    order = random.permutation(items)
    return vectors[order], users.astype(np.float32)


def of_bundle(path: Path) -> Catalogue:
    """The same from a bundle."""
    retriever = Retriever.load(path)
    users = retriever.encode(fixed_histories(retriever))
    users = users[~np.isnan(users[:, 0])]
    return retriever.bundle.vectors, users


def measure(catalogue: Catalogue, families: list[str], target_recall: float, seed: int) -> dict[str, Any]:
    """Choose an index, and measure what the chosen one finds under filters."""
    vectors, queries = catalogue
    begin = time.perf_counter()
    choice = choose_index(vectors, queries, families, target_recall, exact_below=0)
    seconds = time.perf_counter() - begin
    chosen = ItemIndex(choice.index, vectors, choice.facts["search"], choice.facts["rerank"])
    random = np.random.default_rng(seed)
    masks = {f"{share:.0%} by chance": random.random(len(vectors)) < share for share in SHARES}
    filters = filter_recall(chosen, vectors, queries, K, masks)
    rows = [{**row, "search": " ".join(f"{k} {v}" for k, v in row["search"].items())} for row in choice.facts["tried"]]
    title = f"{len(vectors):,} items of dim {vectors.shape[1]}, {len(queries)} queries: {seconds:.0f} s"
    print_table(rows, f"{title}; {choice.facts['reason']}")
    print_table(filters, f"{choice.facts['factory']} under filters")
    return {"items": len(vectors), "dim": vectors.shape[1], "seconds": seconds, "filters": filters, **choice.facts}


def main() -> None:
    """Choose for each catalogue."""
    parser = command_line(__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--bundle", type=Path, help="instead of synthetic items")
    parser.add_argument("--families", nargs="+", default=list(recipes(1000)), help="of indexes")
    parser.add_argument("--target", type=float, default=0.99, help="recall")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = []
    for items in [0] if options.bundle else options.items:
        shape = items, options.dim, options.queries, options.seed
        catalogue = of_bundle(options.bundle) if options.bundle else synthetic(*shape)
        results.append(measure(catalogue, options.families, options.target, options.seed))
    chosen = [{key: row[key] for key in ("items", "factory", "recall", "seconds")} for row in results]
    memory = {"threads": faiss.omp_get_max_threads(), "peak_rss_gib": peak_bytes() / GIB}
    report([{**row, **memory} for row in chosen], "chosen", catalogues=results)


if __name__ == "__main__":
    main()
