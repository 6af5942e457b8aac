"""Retriever: histories of item ids or events in, the best items of the catalogue out.

    python -m twotower.serving.retriever BUNDLE ITEM_ID [ITEM_ID ...]

Shapes: Q histories, k answers each, V items, E events in all histories together, K event inputs.
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

from twotower.errors import UserError
from twotower.schema import ITEM_ID, PAD
from twotower.serving.bundle import TOWER_OUTPUT, Bundle, open_bundle, tower_feed
from twotower.serving.events import Event, item_ids

Ints = npt.NDArray[np.int64]
ItemId = int | str
POSITIONS = 2**14  # history positions that the user tower sees at once; bounds the memory of large requests


class Recommendations(NamedTuple):
    """Answers in the order of the histories, best first."""

    ids: list[list[ItemId]]  # [Q][k]
    scores: npt.NDArray[np.float32]  # [Q, k] similarity; NaN where the answer is the popularity fallback


class Retriever:
    """Answers queries from a bundle, exactly as the trained model would; safe to share between threads.

    Memory: the index (4 * V * D bytes), the user tower with its own table of the same vectors (as much again, and
    twice while loading), the ids.
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

    @property
    def inputs(self) -> list[str]:
        """Names of the model's event inputs, in the order of their codes."""
        return list(self._bundle.inputs)

    def recommend(self, histories: Sequence[Sequence[ItemId | Event]], k: int = 20) -> Recommendations:
        """The k items with the highest score after each history.

        A history is a list of item ids or of events, oldest first. An event is a mapping with `item_id` and what the
        model's event inputs (manifest.json) come from, as far as it is known: `event_type`, `timestamp` (milliseconds
        since 1970, or a datetime, UTC where it has no zone), event features under the column's name. A value that is
        missing counts as unknown, and so does all about a bare id but the item; so does a type that training did not
        have, while a new value of a feature is what its encoder makes of new values.

        Items that the catalogue does not have are skipped, then the newest `max_length` of the rest count.
        A history of which nothing is left gets the items most frequent in training, with NaN for scores.
        Items of the history itself may be among the answers. NumPy integers count as integers.

        Args:
            histories: Q histories. The pause before an event is taken from the event before it, known or not.
            k: answers a history; with k > V, all V items come back.

        Returns:
            Q lists of min(k, V) ids, and scores [Q, min(k, V)]. A history's answers do not depend on the
            others in the request, beyond rounding in the last digits.

        Raises:
            UserError: no list of histories, k is no positive integer, no id is of the catalogue's type, an event
                without item_id, with a timestamp that is none, or with a misspelt key.
        """
        events, length = _flatten(histories)
        if not any(issubclass(kind, Mapping) for kind in set(map(type, events))):
            codes = np.zeros((len(events), len(self.inputs)), dtype=np.int64)
            return self._recommend(events, codes, length, k)
        rows = [event if isinstance(event, Mapping) else {ITEM_ID: event} for event in events]
        ids = item_ids(rows)
        first = np.zeros(len(rows), dtype=bool)
        first[(np.cumsum(length) - length)[length > 0]] = True
        return self._recommend(ids, self._bundle.encoder.codes(rows, first), length, k)

    def recommend_encoded(
        self, histories: Sequence[Sequence[ItemId]], codes: Sequence[Sequence[Sequence[int]]], k: int = 20
    ) -> Recommendations:
        """As `recommend`, for histories of item ids with the codes [K] of the event inputs for each of them."""
        ids, length = _flatten(histories)
        sizes = list(self._bundle.inputs.values())
        rows = [row for history in codes for row in history]
        try:
            table = np.array(rows, dtype=np.int64).reshape(len(ids), len(sizes))
        except ValueError:
            raise UserError(f"the codes are not one for each of {len(ids)} items and {len(sizes)} inputs") from None
        if ((table < 0) | (table >= sizes)).any():
            raise UserError(f"a code is outside its input's range; expected 0 to less than {sizes}")
        return self._recommend(ids, table, length, k)

    def _recommend(self, ids: list[Any], codes: Ints, length: Ints, k: int) -> Recommendations:
        """Answers to Q histories of `length` [Q] of the ids [E] with their codes [E, K]."""
        events = self._look_up(ids)
        known = events != PAD
        session = np.repeat(np.arange(len(length)), length)
        length = np.bincount(session[known], minlength=len(length))
        events, codes = events[known], codes[known]
        k = min(_positive(k), len(self._item_ids))
        rows = np.empty((len(length), k), dtype=np.int64)
        scores = np.full((len(length), k), np.nan, dtype=np.float32)
        rows[length == 0] = self._popular[:k]
        end = np.cumsum(length)
        max_length = int(self._bundle.manifest["max_length"])
        full = np.flatnonzero(length)
        full = full[np.argsort(length[full], kind="stable")]  # rows of about one length: little padding
        step = max(1, POSITIONS // max_length)
        for start in range(0, len(full), step):
            chunk = full[start : start + step]
            feed = tower_feed(events, codes, end[chunk], length[chunk], max_length)
            (vectors,) = self._bundle.tower.run([TOWER_OUTPUT], feed)
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

    def _look_up(self, ids: list[Any]) -> Ints:
        """[E] item_index, PAD where the catalogue does not have the item."""
        try:
            events = np.array([self._index_of.get(item, PAD) for item in ids], dtype=np.int64)
        except TypeError:  # unhashable
            raise UserError("a history holds lists; expected item ids, as in [[1, 2], [3]]") from None
        if not events.any():
            self._check_types(ids)
        return events

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


def _flatten(histories: Any) -> tuple[list[Any], Ints]:
    """All histories' events [E] in a row, and how many each has [Q]."""
    lists = [_items(history, f"histories[{i}]") for i, history in enumerate(_items(histories, "histories"))]
    length = np.array([len(items) for items in lists], dtype=np.int64)
    return [item for items in lists for item in items], length


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping | AbstractSet) or not isinstance(value, Iterable):
        raise UserError(
            f"{name} is {value!r}; expected a list of histories, each a list of item ids or events, oldest first. "
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
