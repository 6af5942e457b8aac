"""Baselines that find past sessions similar to the current one and let their items vote.

Shapes: E training events, S their sessions, Q queries, L history length, V items, C candidates: pairs of a query and a
session that has an item of its history.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from twotower.core.event_codes import MS_PER_DAY
from twotower.core.ragged import place_in_group, ranges
from twotower.core.schema import PAD
from twotower.evaluation.baselines.item_neighbours import TrainingEvents, sum_weights

Array = npt.NDArray[Any]


class Candidates(NamedTuple):
    """Sessions that share an item with a query's history."""

    query: Array  # [C] ascending
    session: Array  # [C] ascending within a query: from the oldest to the newest
    overlap: Array  # [C] sum of the weights of the shared items
    steps_back: Array  # [C] events between the history's newest event and its latest shared item; 0: the newest
    place: Array  # [C] position of the session's latest shared item, from 0


class VSKNN:
    """Vector session-kNN (Ludewig & Jannach 2018, https://arxiv.org/abs/1803.09587), with session-rec's defaults.

    The `sample` latest sessions that share an item with the history are candidates; the `neighbours` most similar of
    them vote, the latest first among equals. An item of the history weighs its position over the history's length; a
    session's votes are divided by the number of steps back to the latest shared item. The index of sessions by item
    takes 16 bytes for each item of a session.

    >>> import torch
    >>> events = TrainingEvents(np.array([1, 2, 1, 3]), np.array([0, 0, 1, 1]), timestamp=np.arange(4), num_items=3)
    >>> VSKNN(events)(torch.tensor([[1, 0]])).tolist()
    [[2.0, 1.0, 1.0]]

    Args:
        events: to fit on.
        neighbours: number of sessions that vote.
        sample: number of sessions that are compared.
    """

    def __init__(self, events: TrainingEvents, neighbours: int = 100, sample: int = 1000) -> None:
        item_index, session, timestamp, num_items = events
        self.num_items, self.neighbours, self.sample = num_items, neighbours, sample
        begin = np.flatnonzero(np.diff(session, prepend=-1))
        count = np.diff(begin, append=len(session))
        ended = timestamp[begin + count - 1] if len(begin) else np.empty(0, dtype=np.int64)
        order = np.argsort(ended, kind="stable")  # from here on, sessions are numbered by the time of their last event
        self.ended = ended[order]
        by_age = ranges(begin[order], count[order])
        owner = np.repeat(np.arange(len(order)), count[order])
        place = place_in_group(owner)
        last = _last_of_each(owner * np.int64(num_items + 1) + item_index[by_age])  # by session and item
        self.item, self.place = item_index[by_age][last].astype(np.int32), place[last].astype(np.int32)
        self.size = np.bincount(owner[last], minlength=len(order))
        self.begin = np.cumsum(self.size) - self.size
        by_item = np.argsort(self.item, kind="stable")
        self.holder, self.held_at = owner[last][by_item].astype(np.int32), self.place[by_item]
        self.holders = np.bincount(self.item, minlength=num_items + 1)
        self.holders_end = np.cumsum(self.holders)

    def __call__(self, history: Tensor) -> Tensor:
        """Return [Q, V] the votes of each query's neighbours; an item without votes scores 0."""
        candidates = self.candidates(history.numpy())
        similarity = self.similarity(candidates)
        order = np.lexsort((-candidates.session, -similarity, candidates.query))
        order = order[place_in_group(candidates.query[order]) < self.neighbours]
        nearest = Candidates(*(column[order] for column in candidates))
        size = self.size[nearest.session]
        where = ranges(self.begin[nearest.session], size)
        distance = np.abs(self.place[where] - np.repeat(nearest.place, size))
        vote = np.repeat(similarity[order] / self.discount(nearest.steps_back), size) * self.closeness(distance)
        return sum_weights(np.repeat(nearest.query, size), self.item[where], vote, len(history), self.num_items)

    def candidates(self, history: Array) -> Candidates:
        """Return the latest sessions that share an item with each history [Q, L]."""
        query, column = np.nonzero(history != PAD)
        newest = (history != PAD).sum(1) - 1
        item = history[query, column].astype(np.int64)
        last = _last_of_each(query * np.int64(self.num_items + 1) + item)  # a repeated item counts where it is last
        query, item, steps_back = query[last], item[last], newest[query[last]] - column[last]
        weight = self.weight(steps_back, newest[query] + 1)
        # A session among a query's latest is among the latest of each item that it shares, too.
        count = np.minimum(self.holders[item], self.sample)
        where = ranges(self.holders_end[item] - count, count)
        pair = np.repeat(np.arange(len(item)), count)
        key = query[pair] * np.int64(len(self.ended)) + self.holder[where]
        order = np.argsort(key, kind="stable")
        key, pair, where = key[order], pair[order], where[order]
        begin = np.flatnonzero(np.diff(key, prepend=-1))
        if len(begin) == 0:
            nothing = np.empty(0, dtype=np.int64)
            return Candidates(nothing, nothing, np.empty(0), nothing, nothing)
        sharing = Candidates(
            key[begin] // len(self.ended),
            key[begin] % len(self.ended),
            np.add.reduceat(weight[pair], begin),
            np.minimum.reduceat(steps_back[pair], begin),
            np.maximum.reduceat(self.held_at[where], begin).astype(np.int64),
        )
        newer = np.searchsorted(sharing.query, sharing.query, side="right") - np.arange(len(begin)) - 1
        return Candidates(*(column[newer < self.sample] for column in sharing))

    def weight(self, steps_back: Array, length: Array) -> Array:
        """Return the weight of an item of a history: linear, times the length, so that whole numbers add up exactly."""
        return (length - steps_back).astype(np.float64)

    def similarity(self, candidates: Candidates) -> Array:
        """Return [C] similarities, up to a factor that all candidates of a query share."""
        return candidates.overlap

    def discount(self, steps_back: Array) -> Array:
        """Return [C] the divisor of a session's votes."""
        return 1.0 + steps_back

    def closeness(self, distance: Array) -> Array:
        """Return the weight of a vote for an item so many events away from the session's latest shared item."""
        return np.ones(len(distance))


class STAN(VSKNN):
    """Sequence and time aware neighbourhood (Garg et al. 2019, https://dl.acm.org/doi/10.1145/3331184.3331322).

    The weights of history items decay with the steps since, sessions with the days since, and a neighbour's items with
    their distance from the latest shared one, all exponentially, at session-rec's default rates.

    >>> events = TrainingEvents(np.array([1, 2, 1, 3]), np.array([0, 0, 1, 1]), timestamp=np.arange(4), num_items=3)
    >>> scorer = STAN(events, fade_days=None)

    Args:
        events: to fit on.
        neighbours, sample: see VSKNN.
        fade_days: days in which a session's weight falls to 1 / e; None where timestamps are only an order.
    """

    FADE_HISTORY, FADE_NEIGHBOUR = 1.02, 2.05  # steps in which a weight falls to 1 / e

    def __init__(
        self, events: TrainingEvents, neighbours: int = 100, sample: int = 5000, fade_days: float | None = 5.0
    ) -> None:
        super().__init__(events, neighbours, sample)
        self.fade_days = fade_days

    def weight(self, steps_back: Array, length: Array) -> Array:
        """Return the weight of an item of a history: exponential."""
        return np.exp(-steps_back / self.FADE_HISTORY)

    def similarity(self, candidates: Candidates) -> Array:
        """Return [C] the cosine of the history's weights and the session's items, times the decay by age.

        Age is counted from the newest candidate on: the time from there to the query is common to all of them, and
        would only make all weights vanish in old data.
        """
        cosine = candidates.overlap / np.sqrt(self.size[candidates.session])
        if self.fade_days is None:
            return cosine
        newest = np.searchsorted(candidates.query, candidates.query, side="right") - 1
        ended = self.ended[candidates.session]
        return cosine * np.exp(-(ended[newest] - ended) / (self.fade_days * MS_PER_DAY))

    def discount(self, steps_back: Array) -> Array:
        """Return 1: the similarity has the decay already."""
        return np.ones(len(steps_back))

    def closeness(self, distance: Array) -> Array:
        """Return the weight of a vote: exponential."""
        return np.exp(-distance / self.FADE_NEIGHBOUR)


def _last_of_each(key: Array) -> Array:
    """Return the position of each distinct key's last occurrence, by ascending key."""
    _, last = np.unique(key[::-1], return_index=True)
    return len(key) - 1 - last
