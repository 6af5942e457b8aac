"""Retriever: histories of item ids in, the best items of the catalogue out.

    python -m twotower.serving.retriever BUNDLE ITEM_ID [ITEM_ID ...]

Shapes: Q histories, k answers each, V items, E ids in all histories together.
"""

import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from twotower.batch import build_history
from twotower.errors import UserError
from twotower.schema import PAD
from twotower.serving.bundle import TOWER_INPUT, TOWER_OUTPUT, Bundle, open_bundle

ItemId = int | str
POSITIONS = 2**14  # history positions that the user tower sees at once; bounds the memory of large requests


class Recommendations(NamedTuple):
    """Answers in the order of the histories, best first."""

    ids: list[list[ItemId]]  # [Q][k]
    scores: npt.NDArray[np.float32]  # [Q, k] similarity; NaN where the answer is the popularity fallback


class Retriever:
    """Answers queries from a bundle, exactly as the trained model would; safe to share between threads.

    Memory: the index (4 * V * D bytes), the user tower with its own item table (as much again), the ids.
    Time: a query scans the whole index, so it grows with V * D.
    """

    def __init__(self, bundle: Bundle) -> None:
        ids = bundle.item_ids.to_pylist()
        self._bundle = bundle
        self._item_ids = np.array(ids, dtype=object)  # [V]
        self._index_of = dict(zip(ids, range(1, len(ids) + 1), strict=True))
        self._popular = np.argsort(-bundle.train_count, kind="stable")  # [V] rows; ties in the catalogue's order

    @classmethod
    def load(cls, path: str | Path) -> "Retriever":
        """Open a bundle; raises UserError when a file of it is missing, damaged, mixed up or newer."""
        return cls(open_bundle(path))

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of the catalogue's ids."""
        return type(self._item_ids[0])

    def recommend(self, histories: Sequence[Sequence[ItemId]], k: int = 20) -> Recommendations:
        """The k items with the highest score after each history.

        Items that the catalogue does not have are skipped, then the newest `max_length` of the rest count.
        A history of which nothing is left gets the items most frequent in training, with NaN for scores.
        Items of the history itself may be among the answers. NumPy integers count as integers.

        Args:
            histories: Q lists of item ids, oldest first.
            k: answers a history; with k > V, all V items come back.

        Returns:
            Q lists of min(k, V) ids, and scores [Q, min(k, V)]. A history's answers do not depend on the
            others in the request, beyond rounding in the last digits.

        Raises:
            UserError: no list of histories, k is no positive integer, or no id is of the catalogue's type.
        """
        events, length = self._look_up(histories)
        k = min(_positive(k), len(self._item_ids))
        rows = np.empty((len(length), k), dtype=np.int64)
        scores = np.full((len(length), k), np.nan, dtype=np.float32)
        rows[length == 0] = self._popular[:k]
        end = np.cumsum(length)
        max_length = int(self._bundle.manifest["max_length"])
        known = np.flatnonzero(length)
        known = known[np.argsort(length[known], kind="stable")]  # rows of about one length: little padding
        step = max(1, POSITIONS // max_length)
        for start in range(0, len(known), step):
            chunk = known[start : start + step]
            history = build_history(events, end[chunk], length[chunk], max_length)
            (vectors,) = self._bundle.tower.run([TOWER_OUTPUT], {TOWER_INPUT: history})
            scores[chunk], rows[chunk] = self._search(vectors, k)
        return Recommendations(self._item_ids[rows].tolist(), scores)

    def _search(self, vectors: Any, k: int) -> Any:
        """[q, D] -> scores and rows [q, k], with no more threads than queries.

        A query is scanned by one thread; waiting for others cost ten times the scan on a busy machine. The
        number of threads belongs to the calling thread, so requests in other threads do not notice.
        """
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(min(threads, len(vectors)))
        try:
            return self._bundle.index.search(vectors, k)
        finally:
            faiss.omp_set_num_threads(threads)

    def _look_up(self, histories: Sequence[Sequence[ItemId]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The known items of all histories as item_index [E], and how many each history has [Q]."""
        lists = [_items(history, f"histories[{i}]") for i, history in enumerate(_items(histories, "histories"))]
        try:
            found = [self._index_of.get(item, PAD) for items in lists for item in items]
        except TypeError:  # unhashable
            raise UserError("a history holds lists; expected item ids, as in [[1, 2], [3]]") from None
        events = np.array(found, dtype=np.int64)
        session = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
        known = events != PAD
        if not known.any():
            self._check_types(item for items in lists for item in items)
        return events[known], np.bincount(session[known], minlength=len(lists))

    def _check_types(self, items: Iterable[Any]) -> None:
        """Unknown items are normal; if none is even of the right type, the caller has mixed up something."""
        expected = str if self.id_type is str else Integral
        wrong = None
        for item in items:
            if isinstance(item, expected):
                return
            wrong = item
        if wrong is not None:
            raise UserError(
                f"no id in the histories is of type {self.id_type.__name__}: {wrong!r} is of type "
                f"{type(wrong).__name__}, the catalogue has ids like {self._item_ids[0]!r}; convert them"
            )


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping | AbstractSet) or not isinstance(value, Iterable):
        raise UserError(
            f"{name} is {value!r}; expected a list of histories, each a list of item ids, oldest first. "
            "For one history write [[...]]"
        )
    return list(value)


def _positive(k: Any) -> int:
    try:
        number = operator.index(k)
    except TypeError:
        number = 0
    if number < 1 or isinstance(k, bool):
        raise UserError(f"k is {k!r}; expected a positive integer, the number of items to recommend")
    return number


def main(arguments: list[str]) -> int:
    """Print recommendations for one history; 0: done, 2: the user can mend it."""
    if len(arguments) < 2:
        print("usage: python -m twotower.serving.retriever BUNDLE ITEM_ID [ITEM_ID ...]   (oldest first)")
        return 2
    try:
        retriever = Retriever.load(arguments[0])
        history = [_parse(text, retriever.id_type) for text in arguments[1:]]
        (ids,), (scores,) = retriever.recommend([history], k=10)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if np.isnan(scores[0]):
        print("no item of the history is in the catalogue; the most popular items:")
    width = max(7, *(len(str(item)) for item in ids))
    print(f"rank  {'item_id':<{width}}  score")
    for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1):
        print(f"{rank:>4}  {item!s:<{width}}  {'-' if np.isnan(score) else f'{score:.4f}'}")
    return 0


def _parse(text: str, id_type: type[int] | type[str]) -> ItemId:
    try:
        return id_type(text)
    except ValueError:
        raise UserError(f"{text!r} is not an item id: the ids of this catalogue are integers") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
