"""The FAISS index over item vectors: how it is built, searched, and held against the vectors it should hold.

All is by inner product. FAISS is asked with parameters of the call's own and the index never changes, so that threads
share it. Shapes: Q queries, k answers each, C candidates each, V items, D embedding dim.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import faiss as typed_faiss
import numpy as np
import numpy.typing as npt

faiss: Any = typed_faiss  # its own types lack half of what is used here
ROWS = 2**16  # vectors copied, encoded or scored at once
PER_LIST = 64  # vectors that train one list of an inverted file; FAISS wants 39 at least
SEED = 1234
VISITS = 16  # vectors that a scan of all looks at and leaves out, in the time that it takes to gather and score one
FLOATS = 2**22  # gathered at once to score candidates anew
SAMPLE = 2048  # items whose codes are compared
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def build_index(vectors: Floats, factory: str, centres: Floats | None = None) -> Any:
    """An index of the recipe `factory` (FAISS's index_factory) over vectors [V, D]; the same one for the same vectors.

    An inverted file has no more lists than there are items: a catalogue may have shrunk since the recipe was chosen.
    Memory beside the index: a sample of PER_LIST vectors a list, at least ROWS, and the part that is being added.
    A graph is built by one thread, since with more it would depend on which is first: a minute and more for a million
    items.

    Args:
        vectors: may be memory-mapped.
        factory: the recipe.
        centres: [lists, D] of another inverted file of as many lists over the same vectors, which would come out again
            and takes longest; see `centres_of`.
    """
    index = _empty(factory, *vectors.shape)
    if centres is not None and isinstance(index, faiss.IndexIVF) and index.nlist == len(centres):
        index.quantizer.add(centres)
    with _threads(1 if isinstance(index, faiss.IndexHNSW) else faiss.omp_get_max_threads()):
        if not index.is_trained:
            index.train(_sample(vectors, PER_LIST * getattr(index, "nlist", 1)))
        for start in range(0, len(vectors), ROWS):
            index.add(np.ascontiguousarray(vectors[start : start + ROWS]))
    return index


def centres_of(index: Any) -> Floats | None:
    """[lists, D] the centres of an inverted file's lists; None for another index."""
    return index.quantizer.reconstruct_n(0, index.nlist) if isinstance(index, faiss.IndexIVF) else None


def _empty(factory: str, num_items: int, dim: int) -> Any:
    """Nothing trained or added; RuntimeError where FAISS does not know the recipe."""
    fitting = re.sub(r"(?<=IVF)\d+", lambda lists: str(min(int(lists.group()), max(1, num_items))), factory)
    index = faiss.index_factory(dim, fitting, faiss.METRIC_INNER_PRODUCT)
    parts: list[Any] = [index, getattr(index, "pq", None)]
    for part in parts:
        if hasattr(part, "cp"):  # k-means: quiet about few vectors, and seeded
            part.cp.min_points_per_centroid, part.cp.seed = 1, SEED
    return index


def _sample(vectors: Floats, wanted: int) -> Floats:
    """[n, D] spread over all by chance; a catalogue too small for a code book is repeated."""
    number = max(wanted, ROWS)
    if number < len(vectors):
        rows = np.sort(np.random.default_rng(SEED).choice(len(vectors), number, replace=False, shuffle=False))
        return np.ascontiguousarray(vectors[rows])
    return np.ascontiguousarray(np.resize(vectors, (max(len(vectors), 256), vectors.shape[1])))


class ItemIndex:
    """An index with how it is searched; safe to share between threads.

    An exact index answers by its own scores. Another gives candidates, which are scored anew from the vectors, so
    that all scores are float32 dot products; its answers may lack some of the best.
    """

    def __init__(self, index: Any, vectors: Floats, search: Mapping[str, int], rerank: int) -> None:
        """
        Args:
            index: of build_index.
            vectors: [V, D] that it was built from; may be memory-mapped.
            search: {"nprobe": lists looked through} of an inverted file, {"efSearch": length of the queue} of a graph.
            rerank: how many times k candidates are scored anew.
        """
        self._index, self._vectors, self._rerank = index, np.asarray(vectors), rerank
        self._is_exact = isinstance(index, faiss.IndexFlat)
        self._name, self._width = next(iter(search.items()), _unasked(index))
        self._plain = self._parameters(self._width, None)

    def search(self, queries: Floats, k: int, allowed: Mask | None = None, threads: int = 1) -> tuple[Floats, Ints]:
        """Scores [Q, k] and rows [Q, k] of the best items, best first, ties by row; each row once.

        There are always k answers, or as many as are allowed. Where few are allowed, they are all scored: with an
        inverted file or a graph where the search would score as many, since it is widened in proportion (a graph is
        walked through items that are not allowed, too, and would lose what it finds); else below one of VISITS. The
        same happens where a search, widened as often as that is worth it, still finds fewer than k.

        Args:
            queries: [Q, D].
            k: answers each.
            allowed: [V] which items may be answers; None: all.
            threads: that compute at the same time, at most one a query.
        """
        size = len(self._vectors) if allowed is None else int(np.count_nonzero(allowed))
        queries, k = np.ascontiguousarray(queries, dtype=np.float32), min(k, size)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        width = -(-self._width * len(self._vectors) // size)
        with _threads(min(threads, len(queries))):
            if self._cost(width, size) >= size:
                return scan(queries, self._vectors, k, allowed)
            selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            parameters = self._plain if selector is None else self._parameters(width, selector)
            scores, rows = self._ask(queries, k, min(k * self._rerank, size), parameters)
            short = np.flatnonzero(rows.min(axis=1) < 0)
            while len(short):
                width *= 4
                if self._cost(width, size) >= size:
                    scores[short], rows[short] = scan(queries[short], self._vectors, k, allowed)
                    break
                parameters = self._parameters(width, selector)
                fetch = min(k * self._rerank, size)
                scores[short], rows[short] = self._ask(queries[short], k, fetch, parameters)
                short = short[rows[short].min(axis=1) < 0]
            return scores, rows

    def _cost(self, width: int, size: int) -> float:
        """How many vectors could be gathered and scored in the time of a search of this width, about."""
        if self._name == "nprobe":
            return float(size * width / self._index.nlist)
        if self._name == "efSearch":
            return float(width * self._index.hnsw.nb_neighbors(0))
        return len(self._vectors) / VISITS

    def _parameters(self, width: int, selector: Any) -> Any:
        choice = {} if selector is None else {"sel": selector}
        if self._name == "nprobe":
            return faiss.SearchParametersIVF(nprobe=min(width, self._index.nlist), **choice)
        if self._name == "efSearch":
            return faiss.SearchParametersHNSW(efSearch=min(width, self._index.ntotal), **choice)
        return faiss.SearchParameters(**choice)

    def _ask(self, queries: Floats, k: int, fetch: int, parameters: Any) -> tuple[Floats, Ints]:
        """[Q, k] from the index; -1 where it finds fewer."""
        scores, rows = self._index.search(queries, fetch, params=parameters)
        if not self._is_exact:
            scores = self._scored(queries, rows)
        return _best(scores, rows, k)

    def _scored(self, queries: Floats, rows: Ints) -> Floats:
        """[Q, C] dot products with the vectors of rows [Q, C]; -infinity for -1."""
        scores = np.empty(rows.shape, dtype=np.float32)
        step = max(1, FLOATS // (rows.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            np.einsum("qd,qcd->qc", queries[some], self._vectors[rows[some]], out=scores[some])
        scores[rows < 0] = -np.inf
        return scores


def _unasked(index: Any) -> tuple[str, int]:
    """What an index is asked with where nothing is said."""
    if isinstance(index, faiss.IndexIVF):
        return "nprobe", int(index.nprobe)
    return ("efSearch", int(index.hnsw.efSearch)) if isinstance(index, faiss.IndexHNSW) else ("", 0)


def scan(queries: Floats, vectors: Floats, k: int, allowed: Mask | None = None) -> tuple[Floats, Ints]:
    """Scores and rows [Q, k] of the best items, best first, ties by row, by scoring all that are allowed [V].

    Part by part; `k` is at most as many as are allowed.
    """
    wanted = None if allowed is None else np.flatnonzero(allowed)
    size = len(vectors) if wanted is None else len(wanted)
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, size, ROWS):
        stop = min(start + ROWS, size)
        part = vectors[start:stop] if wanted is None else vectors[wanted[start:stop]]
        found = faiss.knn(queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.append(scores, found[0], axis=1), np.append(rows, start + found[1], axis=1)
        scores, rows = _best(scores, rows, k)
    return scores, rows if wanted is None else wanted[rows]


def _best(scores: Floats, rows: Ints, k: int) -> tuple[Floats, Ints]:
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    query = np.arange(len(rows))[:, None]
    return scores[query, order], rows[query, order]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """FAISS takes so many threads for what the calling thread asks of it; with one none waits for another."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def check_index(index: Any, vectors: Floats, facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """What `index` is and what was expected, where it does not fit vectors [V, D] or the manifest's `facts` on it.

    An index at float32 must hold the vectors themselves, another the codes of SAMPLE of them; of an inverted file with
    packed codes only the lists that items are in are compared.
    """
    name = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return f"{name} of another metric", "an inner-product index"
    if (index.ntotal, index.d) != vectors.shape:
        return f"{index.ntotal} vectors of dim {index.d}", f"{len(vectors)} of {vectors.shape[1]}"
    try:
        expected = _structure(_empty(facts["factory"], *vectors.shape))
    except RuntimeError:
        return name, f"one of the recipe {facts['factory']!r}, which FAISS does not know"
    if _structure(index) != expected:
        return f"{_structure(index)}", f"{expected}, as the manifest's recipe {facts['factory']!r} gives"
    holds = _lists_hold if isinstance(index, faiss.IndexIVF) else _codes_hold
    return None if holds(index, vectors) else ("other vectors", "those of the embeddings, in their order")


def _structure(index: Any) -> str:
    """The classes that an index is made of, and the sizes that its recipe sets."""
    name = "IndexFlat" if isinstance(index, faiss.IndexFlat) else type(index).__name__
    if isinstance(index, faiss.IndexHNSW):
        return f"{name}({index.hnsw.nb_neighbors(0)}, {_structure(faiss.downcast_index(index.storage))})"
    if isinstance(index, faiss.IndexIVF):
        quantizer = _structure(faiss.downcast_index(index.quantizer))
        return f"{name}({index.nlist}, {quantizer}, {index.code_size} bytes)"
    return f"{name}({getattr(index, 'code_size', '?')} bytes)"


def _codes_hold(index: Any, vectors: Floats) -> bool:
    codes = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    table = faiss.rev_swig_ptr(codes.codes.data(), codes.ntotal * codes.code_size).reshape(codes.ntotal, -1)
    if isinstance(codes, faiss.IndexFlat):
        parts = ((table[i : i + ROWS], vectors[i : i + ROWS]) for i in range(0, len(vectors), ROWS))
        return all(np.array_equal(part.view(np.float32), truth) for part, truth in parts)
    rows = _some(len(vectors), SAMPLE)
    return _fit(table[rows], codes.sa_encode(np.ascontiguousarray(vectors[rows])))


def _lists_hold(index: Any, vectors: Floats) -> bool:
    """Whether items are in the lists that their vectors belong to, with their codes."""
    lists = faiss.downcast_InvertedLists(index.invlists)
    is_packed = isinstance(lists, faiss.BlockInvertedLists)
    prefix = index.coarse_code_size()
    sizes = np.array([lists.list_size(number) for number in range(index.nlist)])
    if sizes.sum() != len(vectors):
        return False
    left = SAMPLE
    for number in _some(index.nlist, index.nlist, shuffle=True):
        size = int(min(sizes[number], left))
        if size == 0:
            continue
        rows = faiss.rev_swig_ptr(lists.get_ids(int(number)), size)
        if rows.min() < 0 or rows.max() >= len(vectors):
            return False
        expected = index.sa_encode(np.ascontiguousarray(vectors[rows]))
        home = expected[:, :prefix] == np.frombuffer(int(number).to_bytes(prefix, "little"), np.uint8)
        if home.all(axis=1).mean() < 0.9:  # on the border of two lists other processors may round otherwise
            return False
        codes = None if is_packed else faiss.rev_swig_ptr(lists.get_codes(int(number)), size * index.code_size)
        if codes is not None and not _fit(codes.reshape(size, -1), expected[:, prefix:]):
            return False
        left -= size
        if left == 0:
            break
    return True


def _some(number: int, most: int, shuffle: bool = False) -> Ints:
    rows = np.random.default_rng(SEED).choice(number, min(number, most), replace=False)
    return rows if shuffle else np.sort(rows)


def _fit(codes: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> bool:
    """Whether codes [n, bytes] are the expected ones, but for last digits that other processors round otherwise."""
    return bool(((codes == expected).mean(axis=1) > 0.5).all())
