"""Recall and nDCG of lists within a horizon: how much of what comes in the next days, or in the session, they hold.

A query is known by its target's position among the events. Its relevant items are the distinct items of the events
ahead of its history's newest event, from the target on, to the end of the part at the most. Shapes: Q queries,
K items of a list, E events, n events of the queries' sessions, from the first target on, T event types.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from twotower.core.arrays import Array
from twotower.core.ragged import ranges
from twotower.core.schema import Prepared
from twotower.data.horizon import Horizon
from twotower.metrics.ranking_results import LIST_LENGTH
from twotower.metrics.ranks import slices

QUERIES_AT_ONCE = 1 << 16  # whose lists are looked up together; bounds the memory


class RelevantItems:
    """The relevant items of queries.

    >>> horizon = Horizon(offsets=np.array([0, 5]), end=np.array([5]), timestamp=np.zeros(5), days=np.inf)
    >>> relevant = RelevantItems(np.array([1, 4]), horizon, np.array([7, 8, 9, 8, 7]), np.full(5, True))
    >>> relevant.number.tolist(), relevant.contain(np.array([[8, 6], [8, 7]])).tolist()
    ([3, 1], [[True, False], [False, True]])

    Args:
        event: [Q] of each query, ascending.
        ahead: how far a query looks.
        item_index: [E].
        is_counted: [E] whether an event makes its item relevant.
    """

    def __init__(self, event: Array, ahead: Horizon, item_index: Array, is_counted: Array) -> None:
        session = np.searchsorted(ahead.offsets, event, side="right") - 1
        used, first, row = np.unique(session, return_index=True, return_inverse=True)
        begin = event[first]
        length = np.asarray(ahead.end)[used] - begin
        shift = begin - (np.cumsum(length) - length)  # from places among the n events to positions
        position = ranges(begin, length)
        place = np.arange(len(position))
        stop = ahead.stop(position - 1) - np.repeat(shift, length)  # [n] ascending
        self._row, self._place = row, event - shift[row]
        self._stop = stop[self._place]
        self._width, self._events = int(item_index.max(initial=0)) + 1, len(position)
        counted = place[is_counted[position]]
        key = np.repeat(np.arange(len(used)), length)[counted] * self._width + item_index[position[counted]]
        order = np.argsort(key, kind="stable")
        key, counted = key[order], counted[order]  # by session, item and place
        is_first = np.diff(key, prepend=-1) > 0
        self._key = key[is_first]
        self._occurrence = (np.cumsum(is_first) - 1) * self._events + counted  # ascending
        # An event counts for the queries after its item's occurrence before, and from the first that looks so far.
        before = np.where(is_first, -1, np.roll(counted, 1))
        earliest = np.maximum(before + 1, np.searchsorted(stop, counted, side="right"))
        change = np.bincount(earliest, minlength=self._events + 1)
        change = change - np.bincount(counted + 1, minlength=self._events + 1)
        self.number: Array = np.cumsum(change)[self._place]  # [Q]

    def contain(self, items: Array) -> Array:
        """Return [Q, K] whether each of a query's `items` [Q, K] is relevant to it; PAD is not."""
        found = np.zeros(items.shape, dtype=bool)
        for part in slices(len(items) if len(self._key) else 0, QUERIES_AT_ONCE):
            key = self._row[part, None] * self._width + items[part]
            group = np.searchsorted(self._key, key).clip(max=len(self._key) - 1)
            asked = group * self._events
            after = np.searchsorted(self._occurrence, asked + self._place[part, None])
            after = self._occurrence[after.clip(max=len(self._occurrence) - 1)]
            is_next = (after >= asked + self._place[part, None]) & (after < asked + self._stop[part, None])
            found[part] = (self._key[group] == key) & is_next
        return found


def list_values(is_relevant: Array, number: Array, ks: Sequence[int]) -> dict[str, Array]:
    """Return [Q] recall@k and ndcg@k by name, `recall_at_20`, of lists with several relevant items.

    Recall is divided by no more than k, so that a perfect list has 1. nDCG has gains of 1 (Järvelin & Kekäläinen 2002).

    >>> values = list_values(np.array([[True, False, True]]), number=np.array([5]), ks=[1, 3])
    >>> {name: value.round(4).tolist() for name, value in values.items()}
    {'recall_at_1': [1.0], 'recall_at_3': [0.6667], 'ndcg_at_1': [1.0], 'ndcg_at_3': [0.7039]}

    Args:
        is_relevant: [Q, K] whether each item of a list is relevant, the best first.
        number: [Q] relevant items of each query, at least 1.
        ks: cut-offs.
    """
    values = {f"recall_at_{k}": is_relevant[:, :k].sum(1) / np.minimum(number, k) for k in ks}
    gain = 1 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.cumsum(gain)
    width = is_relevant.shape[1]
    dcg = {k: is_relevant[:, :k] @ gain[: min(k, width)] for k in ks}
    return values | {f"ndcg_at_{k}": dcg[k] / ideal[np.minimum(number, k) - 1] for k in ks}


def values_by_type(
    lists: Mapping[str, Array],
    event: Array,
    ahead: Horizon,
    prepared: Prepared,
    weights: Array,
    ks: Sequence[int],
) -> Iterator[tuple[str, Array, dict[str, dict[str, Array]]]]:
    """Yield metrics by events of any type, then of each type if there are several.

    Args:
        lists: [Q, K] item_index of each ranker, by name.
        event: [Q] of each query, ascending.
        ahead: how far a query looks.
        prepared: the events.
        weights: [T] of the event types; only those above 0 count.
        ks: cut-offs, of which those beyond LIST_LENGTH are left out.

    Yields:
        What the metrics' names begin with, `purchase/` or nothing; indices of the queries with such an event ahead; and
        their values by ranker and metric.
    """
    codes, ks = np.flatnonzero(weights > 0), [k for k in ks if k <= LIST_LENGTH]
    groups = {"": codes} | {f"{prepared.event_types[code]}/": codes[codes == code] for code in codes if len(codes) > 1}
    for prefix, counted in groups.items():
        relevant = RelevantItems(event, ahead, prepared.item_index, np.isin(prepared.event_type, counted))
        some = np.flatnonzero(relevant.number)
        number = relevant.number[some]
        if len(some):
            found = {name: relevant.contain(top)[some] for name, top in lists.items()}
            yield prefix, some, {name: list_values(each, number, ks) for name, each in found.items()}
