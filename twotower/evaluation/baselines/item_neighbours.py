"""Baselines with a list of weighted neighbours for each item.

Shapes: E training events, Q queries, L history length, V items, N pairs of an item and a neighbour.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.core.ragged import place_in_group, ranges
from twotower.core.schema import PAD

Array = npt.NDArray[Any]


class TrainingEvents(NamedTuple):
    """The events that baselines are fitted on."""

    item_index: Array  # [E]
    session: Array  # [E] ascending
    timestamp: Array  # [E] ms
    num_items: int  # V


class ItemNeighbours:
    """The heaviest neighbours of each item: 8 bytes a neighbour.

    >>> neighbours = ItemNeighbours(np.array([1]), np.array([2]), np.array([0.5]), num_items=2, kept=1)
    >>> neighbours.scores(query=np.array([0]), item=np.array([1]), num_queries=1).tolist()
    [[0.0, 0.5]]

    Args:
        item: [N] item_index.
        neighbour: [N] item_index; no pair occurs twice.
        weight: [N].
        num_items: V.
        kept: number of neighbours of an item that are kept.
    """

    def __init__(self, item: Array, neighbour: Array, weight: Array, num_items: int, kept: int) -> None:
        order = np.lexsort((neighbour, -weight, item))
        order = order[place_in_group(item[order]) < kept]
        self.num_items = num_items
        self.count = np.bincount(item[order], minlength=num_items + 1)
        self.begin = np.cumsum(self.count) - self.count
        self.neighbour = neighbour[order].astype(np.int32)
        self.weight = weight[order].astype(np.float32)

    def scores(self, query: Array, item: Array, num_queries: int) -> Tensor:
        """Return [Q, V] the sum of the neighbours' weights of each query's items: item[i] belongs to query[i]."""
        where = ranges(self.begin[item], self.count[item])
        query = np.repeat(query, self.count[item])
        return sum_weights(query, self.neighbour[where], self.weight[where], num_queries, self.num_items)


class ItemKNN:
    """Items that occur in the same sessions as the history's items: cosine, summed over the history.

    Co-occurrence counts sessions in which both items occur (Sarwar et al. 2001, https://doi.org/10.1145/371920.372071;
    for sessions Hidasi et al. 2016). An item is its own best neighbour, with cosine 1: shops see repeats, and without
    them this baseline is weak.

    >>> events = TrainingEvents(np.array([1, 2]), session=np.array([0, 0]), timestamp=np.array([5, 9]), num_items=2)
    >>> ItemKNN(events)(torch.tensor([[1, 0]])).tolist()
    [[1.0, 1.0]]

    Args:
        events: to fit on.
        neighbours: number of neighbours of an item that are kept.
        window: largest distance of a counted pair, in distinct items of the session.
    """

    def __init__(self, events: TrainingEvents, neighbours: int = 100, window: int = 50) -> None:
        width = events.num_items + 1
        _, first = np.unique(events.session * np.int64(width) + events.item_index, return_index=True)
        first.sort()  # each session's distinct items, in the order of their first event
        session, item = events.session[first], events.item_index[first].astype(np.int64)
        ones = ((np.minimum(a, b) * width + np.maximum(a, b), 1.0) for _, a, b in _pairs(item, session, window))
        pair, times = _total_by_key(ones)
        count = np.bincount(item, minlength=width)
        itself = np.flatnonzero(count)
        left = np.concatenate([pair // width, pair % width, itself])
        right = np.concatenate([pair % width, pair // width, itself])
        weight = np.concatenate([times, times, count[itself]]) / np.sqrt(count[left] * count[right])
        self.neighbours = ItemNeighbours(left, right, weight, events.num_items, neighbours)

    def __call__(self, history: Tensor) -> Tensor:
        """Return [Q, V] the sum of the neighbours' weights."""
        items = history.numpy()
        query, column = np.nonzero(items != PAD)
        return self.neighbours.scores(query, items[query, column], len(items))


class SequentialRules:
    """Items that followed the history's newest item, weighted by 1 / the number of steps in between.

    Kamehkhosh, Jannach & Ludewig 2017 (https://ceur-ws.org/Vol-1922/paper10.pdf), with session-rec's defaults.

    >>> events = TrainingEvents(np.array([1, 2, 3]), session=np.zeros(3), timestamp=np.arange(3), num_items=3)
    >>> SequentialRules(events)(torch.tensor([[1, 0]])).tolist()
    [[0.0, 1.0, 0.5]]

    Args:
        events: to fit on.
        steps: largest number of steps.
        rules: number of rules of an item that are kept.
    """

    def __init__(self, events: TrainingEvents, steps: int = 10, rules: int = 20) -> None:
        width, item = events.num_items + 1, events.item_index.astype(np.int64)
        pairs = _pairs(item, events.session, steps)
        pair, weight = _total_by_key((a * width + b, 1 / distance) for distance, a, b in pairs)
        self.neighbours = ItemNeighbours(pair // width, pair % width, weight, events.num_items, rules)

    def __call__(self, history: Tensor) -> Tensor:
        """Return [Q, V] the weights of the newest item's rules."""
        items = history.numpy()
        query = np.flatnonzero((items != PAD).any(1))
        newest = (items != PAD).sum(1) - 1
        return self.neighbours.scores(query, items[query, newest[query]], len(items))


def sum_weights(query: Array, item: Array, weight: Array, num_queries: int, num_items: int) -> Tensor:
    """Return [Q, V] float32 sums: weight[i] is added to item[i] of query[i]; an item without weights scores 0."""
    scores = torch.zeros(num_queries, num_items)
    cell = torch.from_numpy(query * np.int64(num_items) + item - 1)
    scores.view(-1).index_add_(0, cell, torch.from_numpy(weight.astype(np.float32, copy=False)))
    return scores


def _pairs(item: Array, session: Array, furthest: int) -> Iterable[tuple[int, Array, Array]]:
    """Yield each distance up to `furthest`, and the earlier and later items of all pairs so far apart in a session."""
    for distance in range(1, furthest + 1):
        same = np.flatnonzero(session[distance:] == session[:-distance])
        if len(same) == 0:
            break
        yield distance, item[same], item[same + distance]


def _total_by_key(parts: Iterable[tuple[Array, float]]) -> tuple[Array, Array]:
    """Return the distinct keys, ascending, and the sum of the weights of each key's occurrences."""
    keys: Array = np.empty(0, dtype=np.int64)
    totals: Array = np.empty(0)
    for key, weight in parts:
        distinct, times = np.unique(key, return_counts=True)
        keys, inverse = np.unique(np.concatenate([keys, distinct]), return_inverse=True)
        totals = np.bincount(inverse, weights=np.concatenate([totals, times * weight]))
    return keys, totals
