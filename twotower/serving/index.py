"""The FAISS index over item vectors: how it is built, searched and checked. Exact search, or inverted files (IVF).

All search is by inner product. FAISS gets the parameters of a search with the call and the index never changes, so
threads share it. Shapes: Q queries, k results each, C candidates each, V items, D embedding dim.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import faiss as typed_faiss
import numpy as np

from twotower.core.arrays import Floats, Ints, Mask
from twotower.serving.parallel import in_parts
from twotower.serving.users import Users

faiss: Any = typed_faiss  # its type annotations lack half of what is used here
ROWS = 2**16  # vectors copied, encoded or scored at once
PER_LIST = 64  # vectors that train one list of an inverted file; FAISS wants 39 at least
SEED = 1234
VISITS = 16  # vectors that a scan of all skips in the time that it takes to gather and score one
FLOATS = 2**22  # gathered at once to score candidates exactly
SAMPLE = 2048  # items whose codes are compared


def build_index(vectors: Floats, factory: str, centres: Floats | None = None) -> Any:
    """Build the index that FAISS's index_factory calls `factory`; equal vectors give an equal index.

    An inverted file has no more lists than there are items: a catalogue may have shrunk since the factory was chosen.
    Memory beside the index: a sample of PER_LIST vectors a list, at least ROWS, and the part that is being added.

    Args:
        vectors: [V, D], may be memory-mapped.
        factory: "Flat" (exact) or as "IVF4096,SQ8" (4,096 lists, 8-bit codes).
        centres: [lists, D] of another inverted file with as many lists over the same vectors, to save the k-means,
            which takes longest and would give the same; see `centres_of`.
    """
    index = _empty(factory, *vectors.shape)
    if centres is not None and isinstance(index, faiss.IndexIVF) and index.nlist == len(centres):
        index.quantizer.add(centres)
    if not index.is_trained:
        index.train(_sample(vectors, max(PER_LIST * index.nlist, ROWS)))
    for start in range(0, len(vectors), ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + ROWS]))
    return index


def centres_of(index: Any) -> Floats | None:
    """Return [lists, D] the centres of an inverted file's lists; None for an exact index."""
    return index.quantizer.reconstruct_n(0, index.nlist) if isinstance(index, faiss.IndexIVF) else None


def _empty(factory: str, num_items: int, dim: int) -> Any:
    """An index without vectors; raises RuntimeError for a factory unknown to FAISS."""
    fitting = re.sub(r"(?<=IVF)\d+", lambda lists: str(min(int(lists.group()), max(1, num_items))), factory)
    index = faiss.index_factory(dim, fitting, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVF):  # k-means: no warnings about few vectors, and seeded
        index.cp.min_points_per_centroid, index.cp.seed = 1, SEED
    return index


def _sample(vectors: Floats, number: int) -> Floats:
    """[up to `number`, D] vectors drawn without replacement."""
    if number >= len(vectors):
        return np.ascontiguousarray(vectors)
    rows = np.sort(np.random.default_rng(SEED).choice(len(vectors), number, replace=False, shuffle=False))
    return np.ascontiguousarray(vectors[rows])


class ItemIndex:
    """A searchable index; safe to share between threads.

    An exact index returns its own scores. An inverted file returns candidates, which are scored again from the
    vectors, so that all scores are float32 dot products; some of the best may be missing.

    Args:
        index: of build_index.
        vectors: [V, D] that it was built from; may be memory-mapped.
        search: {"nprobe": lists searched} of an inverted file, {} of an exact index.
        rerank: how many times k candidates are scored again.

    >>> vectors = np.eye(3, dtype=np.float32)
    >>> ItemIndex(build_index(vectors, "Flat"), vectors, {}, 1).search(vectors[:1], 2)[1]
    array([[0, 1]])
    """

    def __init__(self, index: Any, vectors: Floats, search: Mapping[str, int], rerank: int) -> None:
        self._index, self._vectors, self._rerank = index, np.asarray(vectors), rerank
        self._is_exact = not isinstance(index, faiss.IndexIVF)
        self._probes = 1 if self._is_exact else search.get("nprobe", index.nprobe)
        self._plain = self._parameters(self._probes, None)

    def search(
        self, users: Users | Floats, k: int, allowed: Mask | None = None, threads: int = 1
    ) -> tuple[Floats, Ints]:
        """Return scores [Q, k] and rows [Q, k] of the best items, best first, ties by row; each row once.

        There are always k results, or as many as are allowed. Where a filter allows few items, all of them are scored:
        for an inverted file where the search, widened in proportion to the filter, would score as many; for an exact
        index below one item in VISITS. The same is done for queries with fewer than k results after widening.

        Args:
            users: Q encoded histories, or vectors [Q, D].
            k: results of each.
            allowed: [V] which items may be results; None: all.
            threads: that compute concurrently, at most one a query.
        """
        size = len(self._vectors) if allowed is None else int(np.count_nonzero(allowed))
        users = users if isinstance(users, Users) else Users(users)
        queries, k = np.ascontiguousarray(users.vectors, dtype=np.float32), min(k, size)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        count, candidates = len(queries), min(users.candidates(k), size)
        parts = in_parts(lambda part: self._search(queries[part], candidates, allowed, size), count, count, threads)
        scores, rows = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return users.with_history_items(scores, rows, k, self._vectors, allowed)

    def _search(self, queries: Floats, k: int, allowed: Mask | None, size: int) -> tuple[Floats, Ints]:
        """As `search`, in this thread; `size` items are allowed."""
        probes, fetch = -(-self._probes * len(self._vectors) // size), min(k * self._rerank, size)
        with _one_thread():
            if self._cost(probes, size) >= size:
                return scan(queries, self._vectors, k, allowed)
            selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            parameters = self._plain if selector is None else self._parameters(probes, selector)
            scores, rows = self._ask(queries, k, fetch, parameters)
            short = np.flatnonzero(rows.min(axis=1) < 0)
            while len(short):
                probes *= 4
                if self._cost(probes, size) >= size:
                    scores[short], rows[short] = scan(queries[short], self._vectors, k, allowed)
                    break
                scores[short], rows[short] = self._ask(queries[short], k, fetch, self._parameters(probes, selector))
                short = short[rows[short].min(axis=1) < 0]
            return scores, rows

    def _cost(self, probes: int, size: int) -> float:
        """About how many vectors can be gathered and scored in the time of this search."""
        return len(self._vectors) / VISITS if self._is_exact else size * probes / self._index.nlist

    def _parameters(self, probes: int, selector: Any) -> Any:
        choice = {} if selector is None else {"sel": selector}
        if self._is_exact:
            return faiss.SearchParameters(**choice)
        return faiss.SearchParametersIVF(nprobe=min(probes, self._index.nlist), **choice)

    def _ask(self, queries: Floats, k: int, fetch: int, parameters: Any) -> tuple[Floats, Ints]:
        """Scores and rows [Q, k] from the index; -1 where it has fewer."""
        scores, rows = self._index.search(queries, fetch, params=parameters)
        if not self._is_exact:
            scores = self._exact_scores(queries, rows)
        return _sorted(scores, rows, k)

    def _exact_scores(self, queries: Floats, rows: Ints) -> Floats:
        """[Q, C] dot products with the vectors of rows [Q, C]; -infinity for -1."""
        scores = np.empty(rows.shape, dtype=np.float32)
        step = max(1, FLOATS // (rows.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            np.einsum("qd,qcd->qc", queries[part], self._vectors[rows[part]], out=scores[part])
        scores[rows < 0] = -np.inf
        return scores


def scan(queries: Floats, vectors: Floats, k: int, allowed: Mask | None = None) -> tuple[Floats, Ints]:
    """Return scores and rows [Q, k] of the best items, best first, ties by row, by scoring all allowed ones in parts.

    Args:
        queries: [Q, D].
        vectors: [V, D], may be memory-mapped.
        k: at most as many as are allowed.
        allowed: [V] which items may be results; None: all.
    """
    wanted = None if allowed is None else np.flatnonzero(allowed)
    size = len(vectors) if wanted is None else len(wanted)
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, size, ROWS):
        stop = min(start + ROWS, size)
        part = vectors[start:stop] if wanted is None else vectors[wanted[start:stop]]
        part_scores, places = faiss.knn(queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.append(scores, part_scores, axis=1), np.append(rows, start + places, axis=1)
        scores, rows = _sorted(scores, rows, k)
    return scores, rows if wanted is None else wanted[rows]


def _sorted(scores: Floats, rows: Ints, k: int) -> tuple[Floats, Ints]:
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    query = np.arange(len(rows))[:, None]
    return scores[query, order], rows[query, order]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let FAISS use no pool for calls of this thread: see serving.parallel."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def check_index(index: Any, vectors: Floats, facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """Check that an index was built from vectors [V, D] with the manifest's `facts`; None if so.

    Returns:
        What `index` is and what was expected, in words.
    """
    name = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return f"{name} of another metric", "an inner-product index"
    if (index.ntotal, index.d) != vectors.shape:
        return f"{index.ntotal} vectors of dim {index.d}", f"{len(vectors)} of {vectors.shape[1]}"
    try:
        expected = _structure(_empty(facts["factory"], *vectors.shape))
    except RuntimeError:
        return name, f"one of the factory {facts['factory']!r}, which FAISS does not know"
    if expected is None or _structure(index) != expected:
        return f"{_structure(index) or name}", f"{expected}, as the manifest's factory {facts['factory']!r} gives"
    with _one_thread():
        is_same = _holds(index, vectors)
    return None if is_same else ("other vectors", "those of the embeddings, in their order")


def _structure(index: Any) -> str | None:
    """The classes that an index is made of, and the sizes that its factory sets; None for other kinds of index."""
    if isinstance(index, faiss.IndexFlat):
        return f"IndexFlat({index.code_size} bytes)"
    if isinstance(index, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer):
        quantizer = _structure(faiss.downcast_index(index.quantizer))
        return f"{type(index).__name__}({index.nlist}, {quantizer}, {index.code_size} bytes)"
    return None


def _holds(index: Any, vectors: Floats) -> bool:
    """Whether an exact index holds the vectors, or an inverted file their codes, for SAMPLE of them."""
    if isinstance(index, faiss.IndexFlat):
        table = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size).reshape(index.ntotal, -1)
        starts = range(0, len(vectors), ROWS)
        return all(np.array_equal(table[i : i + ROWS].view(np.float32), vectors[i : i + ROWS]) for i in starts)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(vectors))[:SAMPLE])
    try:
        index.make_direct_map()  # where each item's code is
        decoded = index.reconstruct_batch(rows)
    except RuntimeError:  # an item twice or none
        return False
    finally:
        index.set_direct_map_type(faiss.DirectMap.NoMap)
    expected = index.sa_decode(index.sa_encode(np.ascontiguousarray(vectors[rows])))
    # Other processors may round otherwise: on the border of two lists, and in the last digits of codes.
    is_same = np.isclose(decoded, expected, atol=1e-5).mean(axis=1) > 0.5
    return bool(is_same.mean() > 0.9)
