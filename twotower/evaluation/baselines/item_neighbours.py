"""Baselines that know for each item which others go with it.

Shapes: E events that may be learnt from, Q queries, L history length, V items, N neighbours kept in all.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.core.ragged import place_in_group, runs
from twotower.core.schema import PAD

Array = npt.NDArray[Any]


class ItemNeighbours:
    """The best neighbours of each item, with weights: 8 bytes a neighbour.

    Args:
        item: [N] item_index.
        neighbour: [N] item_index; no pair occurs twice.
        weight: [N].
        num_items: V.
        kept: how many of each item's neighbours are kept, the heaviest.
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
        """[Q, V] the weights of the neighbours of each query's items, added up.

        Args:
            query: [number of items] whose item it is.
            item: item_index.
            num_queries: Q.
        """
        where = runs(self.begin[item], self.count[item])
        query = np.repeat(query, self.count[item])
        return add_up(query, self.neighbour[where], self.weight[where], num_queries, self.num_items)


class ItemKNN:
    """Items that occur in the same sessions as the history's items: cosine, summed over the history.

    Co-occurrence counts sessions in which both items occur (Sarwar et al. 2001; for sessions Hidasi et al. 2016).
    An item is its own best neighbour, with cosine 1: shops see repeats, and without them this is no rival.

    Args:
        item_index: [E].
        session: [E] ascending.
        num_items: V.
        neighbours: how many of each item's best neighbours are kept.
        window: pairs more than so many distinct items apart in their session are not counted.
    """

    def __init__(
        self, item_index: Array, session: Array, num_items: int, neighbours: int = 100, window: int = 50
    ) -> None:
        width = num_items + 1
        _, first = np.unique(session * np.int64(width) + item_index, return_index=True)
        first.sort()  # each session's distinct items, in the order of their first event
        session, item = session[first], item_index[first].astype(np.int64)
        ones = ((np.minimum(a, b) * width + np.maximum(a, b), 1.0) for _, a, b in _pairs(item, session, window))
        pair, times = _total_by_key(ones)
        count = np.bincount(item, minlength=width)
        own = np.flatnonzero(count)
        left = np.concatenate([pair // width, pair % width, own])
        right = np.concatenate([pair % width, pair // width, own])
        weight = np.concatenate([times, times, count[own]]) / np.sqrt(count[left] * count[right])
        self.neighbours = ItemNeighbours(left, right, weight, num_items, neighbours)

    def __call__(self, history: Tensor) -> Tensor:
        """The sum of the neighbours' weights."""
        items = history.numpy()
        query, column = np.nonzero(items != PAD)
        return self.neighbours.scores(query, items[query, column], len(items))


class SequentialRules:
    """Items that followed the history's newest item, by 1 / the number of steps until they did.

    Kamehkhosh, Jannach & Ludewig 2017, with the defaults that their session-rec gives.

    Args:
        item_index: [E].
        session: [E] ascending.
        num_items: V.
        steps: the furthest that an item may follow.
        rules: how many are kept for each item.
    """

    def __init__(self, item_index: Array, session: Array, num_items: int, steps: int = 10, rules: int = 20) -> None:
        width = num_items + 1
        item = item_index.astype(np.int64)
        pair, weight = _total_by_key((a * width + b, 1 / steps) for steps, a, b in _pairs(item, session, steps))
        self.neighbours = ItemNeighbours(pair // width, pair % width, weight, num_items, rules)

    def __call__(self, history: Tensor) -> Tensor:
        """The weights of the newest item's rules."""
        items = history.numpy()
        query = np.flatnonzero((items != PAD).any(1))
        newest = (items != PAD).sum(1) - 1
        return self.neighbours.scores(query, items[query, newest[query]], len(items))


def add_up(query: Array, item: Array, weight: Array, num_queries: int, num_items: int) -> Tensor:
    """[Q, V] float32 the sum of the weights of each query's items; what has none scores 0.

    Args:
        query: [number of weights].
        item: item_index.
        weight: of any type.
        num_queries: Q.
        num_items: V.
    """
    scores = torch.zeros(num_queries, num_items)
    cell = torch.from_numpy(query * np.int64(num_items) + item - 1)
    scores.view(-1).index_add_(0, cell, torch.from_numpy(weight.astype(np.float32, copy=False)))
    return scores


def _pairs(item: Array, session: Array, furthest: int) -> Iterable[tuple[int, Array, Array]]:
    """For each distance up to `furthest`: the items so far apart within one session, earlier and later."""
    for distance in range(1, furthest + 1):
        same = np.flatnonzero(session[distance:] == session[:-distance])
        if len(same) == 0:
            break
        yield distance, item[same], item[same + distance]


def _total_by_key(parts: Iterable[tuple[Array, float]]) -> tuple[Array, Array]:
    """The distinct keys, ascending, and for each how often it occurs, an occurrence weighing what its part says."""
    keys: Array = np.empty(0, dtype=np.int64)
    totals: Array = np.empty(0)
    for key, weight in parts:
        found, times = np.unique(key, return_counts=True)
        keys, inverse = np.unique(np.concatenate([keys, found]), return_inverse=True)
        totals = np.bincount(inverse, weights=np.concatenate([totals, times * weight]))
    return keys, totals
