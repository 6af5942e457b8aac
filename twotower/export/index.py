"""Which index a bundle gets: the fastest of those that find what was asked for, by validation's own queries.

Shapes: Q queries, k answers each, V items, D embedding dim.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import faiss as typed_faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from twotower.core.errors import UserError, nearest
from twotower.serving.golden import best
from twotower.serving.index import ItemIndex, build_index, centres_of, scan

faiss: Any = typed_faiss  # its own types lack some of what is used here
K = 20
SLOWEST = 2.0  # times the median of exact search; what takes longer is not searched more thoroughly
TIE = 1.05  # times as slow counts as fast as the fastest: then fewer bytes decide
GAIN = 0.002  # of recall
CALLS, SECONDS = 500, 2.0  # the most that a measurement of time takes
FEWEST = 20  # and the fewest calls
WARM_UP = 10  # calls before those that count
GRAPHS = 2_000_000  # items; each of the three graphs takes one thread a minute and more for a million
ROUNDING = 1e-5  # of a score; for scores beyond one, of the largest
EXACT = "exact"
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Recipe(NamedTuple):
    """An index to try."""

    family: str
    factory: str  # FAISS's name of it
    knob: str | None = None  # what makes its search more thorough
    widths: Sequence[int] = (0,)  # its settings, rising
    reranks: Sequence[int] = (1,)  # how many times k candidates are scored exactly, rising


class Choice(NamedTuple):
    """What was chosen."""

    index: Any  # of FAISS
    facts: dict[str, Any]  # for the manifest's "index": see choose_index


def recipes(num_items: int, dim: int) -> dict[str, list[Recipe]]:
    """All that can be tried, by family.

    As many lists as a power of two near 4 * sqrt(V), as FAISS's guidelines have it, and at least 39 items each, which
    its k-means asks for; product codes of 4 bits for two dimensions each. Graphs up to GRAPHS items.
    """
    lists = max(1, min(2 ** round(np.log2(4 * np.sqrt(num_items))), num_items // 39))
    probes = ("nprobe", [2**i for i in range(12) if 2**i < lists] or [1])
    queues = ("efSearch", [2**i for i in range(4, 11)])
    families = {
        EXACT: [Recipe(EXACT, "Flat")],
        "scalar": [Recipe("scalar", "SQfp16"), Recipe("scalar", "SQ8", reranks=(1, 2, 4))],
        "ivf": [
            Recipe("ivf", f"IVF{lists},SQfp16", *probes),
            Recipe("ivf", f"IVF{lists},SQ8", *probes, reranks=(1, 2, 4)),
        ],
        "ivf_pq": [Recipe("ivf_pq", f"IVF{lists},PQ{dim // 2}x4fsr", *probes, reranks=(1, 4, 10, 40))],
        "rabitq": [
            Recipe("rabitq", "RaBitQ", reranks=(1, 4, 10, 40)),
            Recipe("rabitq", f"IVF{lists},RaBitQ", *probes, reranks=(1, 4, 10, 40)),
        ],
        "hnsw": [
            Recipe("hnsw", "HNSW32", *queues),
            Recipe("hnsw", "HNSW32_SQfp16", *queues),
            Recipe("hnsw", "HNSW32_SQ8", *queues, reranks=(1, 2, 4)),
        ],
    }
    if dim % 2:
        families["ivf_pq"] = []
    if num_items > GRAPHS:
        families["hnsw"] = []
    return families


def choose_index(vectors: Floats, queries: Floats, target: Ints, settings: Mapping[str, Any]) -> Choice:
    """Try what the settings name; of what finds `target_recall` of the exact 20 best take the fastest.

    Exact search is always tried, and taken where it is asked for and the fastest, and where nothing else finds enough.
    Memory: one or two indexes, what `build_index` takes, and 2**16 scores a query.

    Args:
        vectors: [V, D], may be memory-mapped.
        queries: [Q, D] user vectors.
        target: [Q] the row of what came next, -1 where that is unknown.
        settings: `families` (see recipes), `target_recall` (from 0 to 1), `exact_below` (items: with fewer, exact
            search alone).

    Returns:
        The index and {"kind", "factory", "search", "rerank", "target_recall", "recall", "reason": in words, "tried":
        rows}. A row has what was tried, `recall` against exact search, `label_recall` of what came next, `p50_ms` and
        `p99_ms` of one query on one thread, `build_s` (inverted files share the lists of the first, in whose time
        they are) and `bytes_per_item`: those of the index, and 4 * D of the vectors, by which all but exact search
        score their candidates, and which stay memory-mapped.

    Raises:
        UserError: there is no such family, or the target is none.
    """
    wanted, least = float(settings["target_recall"]), int(settings["exact_below"])
    if not 0 < wanted <= 1:
        raise UserError(f"index.target_recall={wanted:g}; expected a share above 0 and up to 1, as 0.99")
    known = recipes(*vectors.shape)
    for family in settings["families"]:
        if family not in known:
            raise UserError(f"index.families has {family}; expected some of {', '.join(known)}{nearest(family, known)}")
    is_small = len(vectors) < least
    asked = [EXACT] if is_small else [family for family in known if family in settings["families"]]
    exact, *others = [recipe for family in known if family in {EXACT, *asked} for recipe in known[family]]
    truth = _Truth(queries, best(queries, vectors, min(K, len(vectors)))[1], target)

    tried: list[dict[str, Any]] = []
    fastest: list[dict[str, Any]] = []
    held: dict[str, Any] = {}  # indexes by factory
    centres: Floats | None = None
    for recipe in tqdm([exact, *others], "indexes", unit=" indexes", leave=False, disable=None):
        begin = time.perf_counter()
        index = build_index(vectors, recipe.factory, centres)
        centres = centres_of(index) if centres is None else centres
        seconds = round(time.perf_counter() - begin, 3)
        slowest = SLOWEST * tried[0]["p50_ms"] if tried else float("inf")
        tried += ({**row, "build_s": seconds} for row in _tries(recipe, index, vectors, truth, wanted, slowest))
        fastest = _fastest([row for row in tried if row["kind"] in asked], wanted)
        factories = {row["factory"] for row in fastest}
        held = {factory: built for factory, built in (held | {recipe.factory: index}).items() if factory in factories}
        del index

    row = min(fastest, key=lambda row: float(row["bytes_per_item"]), default=tried[0])
    if is_small:
        reason = f"exact search, as there are fewer than {least:,} items"
    elif not others:
        reason = "exact search, as nothing else was asked for"
    elif fastest:
        reason = f"the fastest of {len(tried)} tried that finds {wanted:g} of the exact {K} best"
    else:
        reason = f"exact search, as nothing of {', '.join(asked)} that was tried finds {wanted:g} of the exact {K} best"
    index = held.get(row["factory"]) or build_index(vectors, row["factory"])
    facts = {name: row[name] for name in ("kind", "factory", "search", "rerank", "recall")}
    return Choice(index, {**facts, "target_recall": wanted, "reason": reason, "tried": tried})


def _fastest(rows: Sequence[dict[str, Any]], wanted: float) -> list[dict[str, Any]]:
    """Those that find enough and are as fast as the fastest of them."""
    enough = [row for row in rows if row["recall"] >= wanted]
    limit = TIE * min((row["p50_ms"] for row in enough), default=0.0)
    return [row for row in enough if row["p50_ms"] <= limit]


class _Truth(NamedTuple):
    """What an index is measured by."""

    queries: Floats  # [Q, D]
    scores: Floats  # [Q, k] of the exact answers
    target: Ints  # [Q]


def _tries(
    recipe: Recipe, index: Any, vectors: Floats, truth: _Truth, wanted: float, slowest: float
) -> list[dict[str, Any]]:
    """A row for each setting that is worth it: more thorough ones until one finds enough, or takes over `slowest` ms.

    They end, too, where they find less than GAIN more: then more candidates must be scored anew. With those, searches
    little less thorough than the last are tried again.
    """
    rows: list[dict[str, Any]] = []
    size = _bytes(index) / len(vectors) + (0 if recipe.family == EXACT else vectors.itemsize * vectors.shape[1])
    first, end = 0, len(recipe.widths)
    for rerank in recipe.reranks:
        before = -1.0
        for place in range(first, end):
            search = {recipe.knob: recipe.widths[place]} if recipe.knob else {}
            measured = _measured(ItemIndex(index, vectors, search, rerank), truth)
            first = max(0, place - 2)
            row = {"kind": recipe.family, "factory": recipe.factory, "search": search, "rerank": rerank}
            rows.append({**row, **measured, "bytes_per_item": round(size, 1)})
            if measured["recall"] >= wanted:
                end = place
                break
            if measured["p50_ms"] > slowest or measured["recall"] < before + GAIN:
                break
            before = measured["recall"]
    return rows


def _measured(index: ItemIndex, truth: _Truth) -> dict[str, float]:
    k = truth.scores.shape[1]
    scores, rows = index.search(truth.queries, k, threads=faiss.omp_get_max_threads())
    p50, p99 = _milliseconds(index, truth.queries, k)
    label = float((rows == truth.target[:, None]).any(axis=1).mean())
    return {"recall": _found(scores, truth.scores), "label_recall": label, "p50_ms": p50, "p99_ms": p99}


def _found(scores: Floats, truth: Floats) -> float:
    """The share of the exact answers that is found, by scores [Q, k] of both: of items that tie any will do."""
    tolerance = ROUNDING * max(1.0, float(np.abs(truth).max(initial=0)))
    return float((scores >= truth[:, -1:] - tolerance).mean())


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
    """How many it writes; nothing is kept."""
    sizes: list[int] = []

    def count(part: bytes) -> int:
        sizes.append(len(part))
        return len(part)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return sum(sizes)


def filter_recall(
    index: ItemIndex, vectors: Floats, queries: Floats, k: int, masks: Mapping[str, Mask]
) -> list[dict[str, Any]]:
    """What an index finds under filters.

    Args:
        index: over `vectors`.
        vectors: [V, D], may be memory-mapped.
        queries: [Q, D].
        k: answers, or as many as a filter allows.
        masks: [V] allowed items, by filter.

    Returns:
        For each filter {"filter", "allowed": share of the items, "recall": of the exact answers, "p50_ms" of one query
        on one thread}; the recall of a filter that allows nothing is 1.
    """
    rows = []
    for name, mask in masks.items():
        truth, _ = scan(queries, vectors, min(k, int(np.count_nonzero(mask))), mask)
        scores, _ = index.search(queries, k, mask, faiss.omp_get_max_threads())
        recall = _found(scores, truth) if truth.size else 1.0
        p50, _ = _milliseconds(index, queries, k, mask)
        rows.append({"filter": name, "allowed": float(mask.mean()), "recall": recall, "p50_ms": p50})
    return rows
