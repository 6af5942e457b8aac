"""Baselines that look for earlier sessions like the current one, and let those vote for their items.

Shapes: E events that may be learnt from, S their sessions, Q queries, L history length, V items, C candidates: pairs
of a query and a session that has an item of its history.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from twotower.core.inputs import MS_PER_DAY
from twotower.core.ragged import place_in_group, runs
from twotower.core.schema import PAD
from twotower.evaluation.baselines.item_neighbours import add_up

Array = npt.NDArray[Any]


class Candidates(NamedTuple):
    """Sessions that share an item with a query's history."""

    query: Array  # [C] ascending
    session: Array  # [C] ascending within a query: from the oldest to the newest
    overlap: Array  # [C] the weights of the history's shared items, added up
    steps_back: Array  # [C] how many events before its newest the history has a shared item last; 0 for the newest
    place: Array  # [C] where the session has a shared item last, from 0


class SessionKNN(ABC):
    """What V-SKNN and STAN have in common: an index of sessions by item, 16 bytes for each item of a session.

    The `sample` latest sessions that share an item with the history are its candidates, and the `neighbours` most
    similar of them, of equal ones the latest, vote.

    Args:
        item_index: [E].
        session: [E] ascending.
        timestamp: [E] ms.
        num_items: V.
        neighbours: how many sessions vote.
        sample: how many sessions are looked at.
    """

    def __init__(
        self,
        item_index: Array,
        session: Array,
        timestamp: Array,
        num_items: int,
        neighbours: int = 100,
        sample: int = 1000,
    ) -> None:
        self.num_items, self.neighbours, self.sample = num_items, neighbours, sample
        begin = np.flatnonzero(np.diff(session, prepend=-1))
        count = np.diff(begin, append=len(session))
        ended = timestamp[begin + count - 1] if len(begin) else np.empty(0, dtype=np.int64)
        order = np.argsort(ended, kind="stable")  # from here on, sessions are numbered by the time of their last event
        self.ended = ended[order]
        by_age = runs(begin[order], count[order])
        owner = np.repeat(np.arange(len(order)), count[order])
        place = place_in_group(owner)
        key = owner * np.int64(num_items + 1) + item_index[by_age]
        _, last = np.unique(key[::-1], return_index=True)
        last = len(key) - 1 - last  # the last event of each item in each session, by session and item
        self.item, self.place = item_index[by_age][last].astype(np.int32), place[last].astype(np.int32)
        self.size = np.bincount(owner[last], minlength=len(order))
        self.begin = np.cumsum(self.size) - self.size
        by_item = np.argsort(self.item, kind="stable")
        self.holder, self.held_at = owner[last][by_item].astype(np.int32), self.place[by_item]
        self.holders = np.bincount(self.item, minlength=num_items + 1)
        self.holders_end = np.cumsum(self.holders)

    def __call__(self, history: Tensor) -> Tensor:
        """The votes of each query's neighbours; an item without any scores 0."""
        found = self.candidates(history.numpy())
        similarity = self.similarity(found)
        order = np.lexsort((-found.session, -similarity, found.query))
        order = order[place_in_group(found.query[order]) < self.neighbours]
        near = Candidates(*(column[order] for column in found))
        size = self.size[near.session]
        where = runs(self.begin[near.session], size)
        away = np.abs(self.place[where] - np.repeat(near.place, size))
        vote = np.repeat(similarity[order] / self.discount(near.steps_back), size) * self.closeness(away)
        return add_up(np.repeat(near.query, size), self.item[where], vote, len(history), self.num_items)

    def candidates(self, history: Array) -> Candidates:
        """The latest sessions that share an item with each history [Q, L]."""
        query, column = np.nonzero(history != PAD)
        newest = (history != PAD).sum(1) - 1
        item = history[query, column].astype(np.int64)
        _, last = np.unique((query * np.int64(self.num_items + 1) + item)[::-1], return_index=True)
        last = len(query) - 1 - last  # an item that occurs twice counts where it is last
        query, item, steps_back = query[last], item[last], newest[query[last]] - column[last]
        weight = self.weight(steps_back, newest[query] + 1)
        # A session among a query's latest is among the latest of each item that it shares, too.
        count = np.minimum(self.holders[item], self.sample)
        where = runs(self.holders_end[item] - count, count)
        pair = np.repeat(np.arange(len(item)), count)
        key = query[pair] * np.int64(len(self.ended)) + self.holder[where]
        order = np.argsort(key, kind="stable")
        key, pair, where = key[order], pair[order], where[order]
        begin = np.flatnonzero(np.diff(key, prepend=-1))
        if len(begin) == 0:
            nothing = np.empty(0, dtype=np.int64)
            return Candidates(nothing, nothing, np.empty(0), nothing, nothing)
        found = Candidates(
            key[begin] // len(self.ended),
            key[begin] % len(self.ended),
            np.add.reduceat(weight[pair], begin),
            np.minimum.reduceat(steps_back[pair], begin),
            np.maximum.reduceat(self.held_at[where], begin).astype(np.int64),
        )
        newer = np.searchsorted(found.query, found.query, side="right") - np.arange(len(begin)) - 1
        return Candidates(*(column[newer < self.sample] for column in found))

    @abstractmethod
    def weight(self, steps_back: Array, length: Array) -> Array:
        """What an item of a history of `length` events weighs, `steps_back` before the newest."""

    @abstractmethod
    def similarity(self, found: Candidates) -> Array:
        """[C], up to a factor that all candidates of a query share."""

    @abstractmethod
    def discount(self, steps_back: Array) -> Array:
        """[C] by what a session's votes are divided whose latest shared item lies so far back in the history."""

    @abstractmethod
    def closeness(self, away: Array) -> Array:
        """What a vote counts for an item so many events away from the shared one, in the session that votes."""


class VSKNN(SessionKNN):
    """Vector session-kNN (Ludewig & Jannach 2018), with the defaults of their session-rec.

    An item counts by its place in the history over the history's length; a session's votes count 1 / the number of
    steps back to the latest shared item.
    """

    def weight(self, steps_back: Array, length: Array) -> Array:
        """Linear; that all are divided by the length changes no order, and whole numbers add up exactly."""
        return (length - steps_back).astype(np.float64)

    def similarity(self, found: Candidates) -> Array:
        """The weight shared."""
        return found.overlap

    def discount(self, steps_back: Array) -> Array:
        """Harmonic."""
        return 1.0 + steps_back

    def closeness(self, away: Array) -> Array:
        """All items of a session count the same."""
        return np.ones(len(away))


class STAN(SessionKNN):
    """Sequence and time aware neighbourhood (Garg et al. 2019), with the defaults of session-rec.

    Items of the history fade with the steps since, sessions with the days since, and a neighbour's items with their
    distance from the latest shared one, all exponentially.

    Args:
        fade_history: steps in which an item of the history fades to 1 / e.
        fade_days: days in which a session does; None where timestamps tell the order alone.
        fade_neighbour: steps in which a neighbour's items do.
    """

    def __init__(
        self,
        item_index: Array,
        session: Array,
        timestamp: Array,
        num_items: int,
        neighbours: int = 100,
        sample: int = 5000,
        fade_history: float = 1.02,
        fade_days: float | None = 5.0,
        fade_neighbour: float = 2.05,
    ) -> None:
        super().__init__(item_index, session, timestamp, num_items, neighbours, sample)
        self.fade_history, self.fade_days, self.fade_neighbour = fade_history, fade_days, fade_neighbour

    def weight(self, steps_back: Array, length: Array) -> Array:
        """Exponential."""
        return np.exp(-steps_back / self.fade_history)

    def similarity(self, found: Candidates) -> Array:
        """Cosine of the history's weights and the session's items, by the session's age.

        Age is counted from the newest candidate on: the time from there to the query is common to all of them, and
        would only make all weights vanish in old data.
        """
        cosine = found.overlap / np.sqrt(self.size[found.session])
        if self.fade_days is None:
            return cosine
        newest = np.searchsorted(found.query, found.query, side="right") - 1
        ended = self.ended[found.session]
        return cosine * np.exp(-(ended[newest] - ended) / (self.fade_days * MS_PER_DAY))

    def discount(self, steps_back: Array) -> Array:
        """The similarity has it already."""
        return np.ones(len(steps_back))

    def closeness(self, away: Array) -> Array:
        """Exponential."""
        return np.exp(-away / self.fade_neighbour)
