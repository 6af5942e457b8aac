"""Choose the bundle's index: the fastest that finds enough of the exact results, for queries of the validation data.

Exact search is tried first, then inverted files (IVF) of 16-bit and of 8-bit codes: of all kinds of index that were
measured up to ten million items, none else was ever the fastest (experiments/benchmarks/README.md).

Shapes: Q queries, k results each, V items, D embedding dim.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import faiss as typed_faiss
import numpy as np
from tqdm import tqdm

from twotower.core.arrays import Floats, Mask
from twotower.core.errors import UserError, nearest
from twotower.serving.exact_search import exact_top_k
from twotower.serving.index import ItemIndex, build_index, centres_of, scan

faiss: Any = typed_faiss  # its type annotations lack some of what is used here
K = 20
SLOWEST = 2.0  # times the median of exact search; a slower search is not made more thorough
TIE = 1.05  # times the fastest's time counts as equally fast: then fewer bytes decide
GAIN = 0.002  # of recall
CALLS, SECONDS = 500, 2.0  # limits of a measurement of time
FEWEST = 20  # calls of it at least
WARM_UP = 10  # calls before those that count
ROUNDING = 1e-5  # of a score; for scores beyond one, of the largest
EXACT, IVF = "exact", "ivf"
PROBES = [2**i for i in range(12)]  # lists searched


class Choice(NamedTuple):
    """The chosen index."""

    index: Any  # of FAISS
    facts: dict[str, Any]  # for the manifest's "index": see choose_index


class Validation(NamedTuple):
    """Queries with the results of exact search."""

    queries: Floats  # [Q, D]
    scores: Floats  # [Q, k] of the exact results


def recipes(num_items: int) -> dict[str, dict[str, Sequence[int]]]:
    """Return by family FAISS's names of the indexes to try, each with its multiples of k to score again, rising.

    As many lists as a power of two near 4 * sqrt(V), as FAISS's guidelines have it, and at least 39 items each, which
    its k-means asks for.
    """
    lists = max(1, min(2 ** round(np.log2(4 * np.sqrt(num_items))), num_items // 39))
    return {EXACT: {"Flat": (1,)}, IVF: {f"IVF{lists},SQfp16": (1,), f"IVF{lists},SQ8": (1, 2, 4)}}


def check_settings(families: Sequence[str], target_recall: float) -> None:
    """Raise UserError for an unknown family or an impossible target."""
    known = (EXACT, IVF)
    if not 0 < target_recall <= 1:
        raise UserError(f"index.target_recall={target_recall:g}; expected a share above 0 and up to 1, as 0.99")
    for family in families:
        if family not in known:
            raise UserError(f"index.families has {family}; expected some of {', '.join(known)}{nearest(family, known)}")


def choose_index(
    vectors: Floats, queries: Floats, families: Sequence[str], target_recall: float, exact_below: int
) -> Choice:
    """Try indexes; choose the fastest of those that find `target_recall` of the exact 20 best.

    Exact search is always tried, and chosen where it is among `families` and the fastest, and where nothing else
    reaches the target. Memory: both inverted files, what `build_index` takes, and 2**14 scores a query.

    Args:
        vectors: [V, D], may be memory-mapped.
        queries: [Q, D] user vectors.
        families: "exact", "ivf" or both.
        target_recall: above 0, up to 1.
        exact_below: with fewer items, exact search alone.

    Returns:
        The index and {"kind", "factory", "search", "rerank", "target_recall", "recall", "reason": in words, "tried":
        rows}. A row has what was tried, `recall` against exact search, `p50_ms` and `p99_ms` of one query on one
        thread, `build_s` (the second inverted file reuses the lists of the first) and `bytes_per_item`: of the index,
        and of an inverted file 4 * D more for the memory-mapped vectors, by which candidates are scored.

    Raises:
        UserError: an unknown family or an impossible target.
    """
    check_settings(families, target_recall)
    known = recipes(len(vectors))
    is_small = len(vectors) < exact_below
    asked = [EXACT] if is_small else list(families)
    exact_scores = exact_top_k(queries, vectors, min(K, len(vectors)))[1]
    validation = Validation(queries, exact_scores)
    index, seconds = _built(vectors, "Flat", None)
    tried = _tries("Flat", (1,), index, vectors, validation, target_recall, float("inf"), seconds)
    del index
    slowest = SLOWEST * tried[0]["p50_ms"]
    indexes: dict[str, Any] = {}
    for factory, reranks in tqdm(known[IVF].items() if IVF in asked else (), "indexes", leave=False, disable=None):
        centres = centres_of(next(iter(indexes.values()))) if indexes else None
        indexes[factory], seconds = _built(vectors, factory, centres)
        tried += _tries(factory, reranks, indexes[factory], vectors, validation, target_recall, slowest, seconds)
    row = _fastest([row for row in tried if row["kind"] in asked], target_recall) or tried[0]
    if is_small:
        reason = f"exact search, as there are fewer than {exact_below:,} items"
    elif IVF not in asked:
        reason = "exact search, as nothing else was asked for"
    elif row["recall"] >= target_recall and row["kind"] in asked:
        reason = f"the fastest of {len(tried)} tried that finds {target_recall:g} of the exact {K} best"
    else:
        reason = f"exact search, as no inverted file that was tried finds {target_recall:g} of the exact {K} best"
    index = indexes.get(row["factory"]) or build_index(vectors, row["factory"])
    facts = {name: row[name] for name in ("kind", "factory", "search", "rerank", "recall")}
    return Choice(index, {**facts, "target_recall": target_recall, "reason": reason, "tried": tried})


def _built(vectors: Floats, factory: str, centres: Floats | None) -> tuple[Any, float]:
    begin = time.perf_counter()
    return build_index(vectors, factory, centres), round(time.perf_counter() - begin, 3)


def _fastest(rows: Sequence[dict[str, Any]], target_recall: float) -> dict[str, Any] | None:
    """Of those that reach the target and are about as fast as the fastest, the smallest."""
    enough = [row for row in rows if row["recall"] >= target_recall]
    limit = TIE * min((row["p50_ms"] for row in enough), default=0.0)
    return min((row for row in enough if row["p50_ms"] <= limit), key=lambda r: r["bytes_per_item"], default=None)


def _tries(
    factory: str,
    reranks: Sequence[int],
    index: Any,
    vectors: Floats,
    validation: Validation,
    target_recall: float,
    slowest: float,
    build_s: float,
) -> list[dict[str, Any]]:
    """Measure settings, ever more thorough, until one reaches the target or takes over `slowest` ms.

    They end, too, where one finds less than GAIN more: then more candidates must be scored again. With those, searches
    little less thorough than the last are tried again.
    """
    rows: list[dict[str, Any]] = []
    is_exact = factory == "Flat"
    probes = [1] if is_exact else [n for n in PROBES if n < index.nlist] or [1]
    size = _bytes(index) / len(vectors) + (0 if is_exact else vectors.itemsize * vectors.shape[1])
    first, end = 0, len(probes)
    for rerank in reranks:
        before = -1.0
        for place in range(first, end):
            search = {} if is_exact else {"nprobe": probes[place]}
            measured = _measured(ItemIndex(index, vectors, search, rerank), validation)
            first = max(0, place - 2)
            kind = {"kind": EXACT if is_exact else IVF, "factory": factory, "search": search, "rerank": rerank}
            rows.append({**kind, **measured, "bytes_per_item": round(size, 1), "build_s": build_s})
            if measured["recall"] >= target_recall:
                end = place
                break
            if measured["p50_ms"] > slowest or measured["recall"] < before + GAIN:
                break
            before = measured["recall"]
    return rows


def _measured(index: ItemIndex, validation: Validation) -> dict[str, float]:
    k = validation.scores.shape[1]
    scores, _ = index.search(validation.queries, k, threads=faiss.omp_get_max_threads())
    p50, p99 = _milliseconds(index, validation.queries, k)
    return {"recall": _recall(scores, validation.scores), "p50_ms": p50, "p99_ms": p99}


def _recall(scores: Floats, exact: Floats) -> float:
    """The share of the exact results that is found, by the scores [Q, k] of both: of items that tie any will do."""
    tolerance = ROUNDING * max(1.0, float(np.abs(exact).max(initial=0)))
    return float((scores >= exact[:, -1:] - tolerance).mean())


def _milliseconds(index: ItemIndex, queries: Floats, k: int, allowed: Mask | None = None) -> tuple[float, float]:
    """Median and 99th percentile of one query on one thread, one after the other."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < WARM_UP + FEWEST or (len(times) < CALLS and time.perf_counter() - begin < SECONDS):
        query = queries[len(times) % len(queries)][None]
        start = time.perf_counter()
        index.search(query, k, allowed)
        times.append(1000 * (time.perf_counter() - start))
    p50, p99 = np.quantile(times[WARM_UP:], [0.5, 0.99])
    return round(float(p50), 4), round(float(p99), 4)


def _bytes(index: Any) -> int:
    """The size of the index's file; nothing is written."""
    sizes: list[int] = []

    def count(part: bytes) -> int:
        sizes.append(len(part))
        return len(part)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return sum(sizes)


def filter_recall(
    index: ItemIndex, vectors: Floats, queries: Floats, k: int, masks: Mapping[str, Mask]
) -> list[dict[str, Any]]:
    """Measure what an index finds under filters.

    Args:
        index: over `vectors`.
        vectors: [V, D], may be memory-mapped.
        queries: [Q, D].
        k: results, or as many as a filter allows.
        masks: [V] allowed items, by filter.

    Returns:
        For each filter {"filter", "allowed": share of the items, "recall": of the exact results, "p50_ms" of one query
        on one thread}; the recall of a filter that allows nothing is 1.
    """
    rows = []
    for name, mask in masks.items():
        exact, _ = scan(queries, vectors, min(k, int(np.count_nonzero(mask))), mask)
        scores, _ = index.search(queries, k, mask, faiss.omp_get_max_threads())
        recall = _recall(scores, exact) if exact.size else 1.0
        p50, _ = _milliseconds(index, queries, k, mask)
        rows.append({"filter": name, "allowed": float(mask.mean()), "recall": recall, "p50_ms": p50})
    return rows
