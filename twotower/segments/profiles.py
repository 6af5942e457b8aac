"""Profiles of segments: what their members do more often than all members. Each member counts the same.

Shapes: V items, C segments, s histories of a part, e events of them, T event types.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from twotower.core.files import read_json
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE
from twotower.serving.bundle import Bundle
from twotower.serving.histories import KnownEvents
from twotower.serving.item_columns import CategoryColumn, NumberColumn, category_column, number_column

MOST_VALUES = 5  # of a feature in a segment's profile
LENGTH = "events"  # of a history, of items that the bundle has
Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class ProfileValue(NamedTuple):
    """A value of an item feature that more of a segment's members have met than of all members."""

    feature: str
    value: str
    share: float  # of the segment's members that have an event with an item of this value
    share_of_all: float  # of all members of all segments
    lift: float  # share / share_of_all


class EventShare(NamedTuple):
    """The mean of members' shares of events of one type."""

    event_type: str
    share: float  # in the segment
    share_of_all: float


class ProfileMean(NamedTuple):
    """The mean of a number over the members that have it; NaN where none has."""

    name: str
    mean: float  # in the segment
    mean_of_all: float


class NearItem(NamedTuple):
    """An item with a high score for a segment's centroid."""

    item_id: int | str
    item_name: str | None
    score: float


class Segment(NamedTuple):
    """A segment and its profile; in shares and means each member counts the same."""

    segment: int  # 1 is the largest
    size: int  # members
    share: float  # of all members
    event_mix: list[EventShare]  # empty where events have no types
    profile: list[ProfileValue]
    means: list[ProfileMean]  # events of a history, and price and other numbers of their items
    items: list[NearItem]  # the nearest ones, best first


def item_columns(bundle: Bundle) -> tuple[dict[str, CategoryColumn], dict[str, NumberColumn]]:
    """Return the items' features with values (kinds categorical and multi), and those with numbers (kind numeric)."""
    encoders: Mapping[str, Any] = read_json(bundle.file(FEATURES_FILE), "a bundle").get("items", {})
    file = bundle.file(ITEMS_FILE)
    kinds = {name: encoders[name]["kind"] for name in pq.read_schema(file).names if name in encoders}
    kinds = {name: kind for name, kind in kinds.items() if kind in ("categorical", "multi", "numeric")}
    columns = {name: pq.read_table(file, columns=[name])[name] for name in kinds}
    return (
        {name: category_column(c) for name, c in columns.items() if kinds[name] != "numeric"},
        {name: number_column(c) for name, c in columns.items() if kinds[name] == "numeric"},
    )


class SegmentCounts:
    """Counts by segment, added up part by part; memory: 8 bytes for each segment and value of each feature.

    >>> counts = SegmentCounts(2, 0, categories={}, numbers={})
    >>> known = KnownEvents(np.array([3, 3, 1]), np.zeros((3, 0), dtype=np.int64), length=np.array([2, 1]))
    >>> counts.add(known, event_type=np.zeros(3, dtype=np.int64), segment=np.array([1, 0]))
    >>> counts.means()[1]
    [ProfileMean(name='events', mean=2.0, mean_of_all=1.5)]

    Args:
        segments: C.
        types: T.
        categories, numbers: see item_columns.
    """

    def __init__(
        self, segments: int, types: int, categories: Mapping[str, CategoryColumn], numbers: Mapping[str, NumberColumn]
    ) -> None:
        self._values = {name: column.values for name, column in categories.items()}
        self._categories = {
            name: csr_array((np.ones(len(c.codes)), c.codes, c.offsets), shape=(len(c.offsets) - 1, len(c.values)))
            for name, c in categories.items()
        }
        self._numbers = {
            name: np.stack([np.where(n.is_null, 0, n.values), ~n.is_null], 1) for name, n in numbers.items()
        }
        self.members = np.zeros(segments, dtype=np.int64)
        self._length = np.zeros(segments)
        self._types = np.zeros((segments, types))  # sums of members' shares
        self._holders = {name: np.zeros((segments, len(values))) for name, values in self._values.items()}
        self._sums = {name: np.zeros((2, segments)) for name in numbers}  # of members' means, and members with one

    def add(self, known: KnownEvents, event_type: Array, segment: Ints) -> None:
        """Add s histories with event types [e], none of them empty, that belong to segments [s]."""
        segments, count = len(self.members), len(segment)
        self.members += np.bincount(segment, minlength=segments)
        self._length += np.bincount(segment, known.length, minlength=segments)
        if self._types.shape[1]:
            member = np.repeat(np.arange(count), known.length)
            np.add.at(self._types, (segment[member], event_type), 1 / known.length[member])
        owner = csr_array((np.ones(count), (segment, np.arange(count))), shape=(segments, count))
        event = (np.ones(len(known.item_index)), known.item_index - 1, np.concatenate([[0], known.end]))
        for name, values in self._categories.items():
            met = csr_array(event, shape=(count, values.shape[0])) @ values > 0
            self._holders[name] += (owner @ met).toarray()
        for name, numbers in self._numbers.items():
            total, events = (csr_array(event, shape=(count, len(numbers))) @ numbers).T
            self._sums[name] += (owner @ np.stack([total / np.maximum(events, 1), events > 0], 1)).T

    def profiles(self, min_size: int) -> list[list[ProfileValue]]:
        """Return each segment's MOST_VALUES values of each feature with a lift above 1 and `min_size` members or more.

        They are ordered by share * log(lift), a value's part of the Kullback-Leibler divergence of the segment from
        all members: a rare value needs a larger lift than a frequent one.
        """
        return [
            [value for name in self._categories for value in self._profile(name, segment, min_size)]
            for segment in range(len(self.members))
        ]

    def _profile(self, name: str, segment: int, min_size: int) -> list[ProfileValue]:
        holders, values = self._holders[name], self._values[name]
        share, of_all = holders[segment] / self.members[segment], holders.sum(axis=0) / self.members.sum()
        lift = np.divide(share, of_all, out=np.zeros_like(share), where=of_all > 0)
        rows = np.flatnonzero((holders[segment] >= max(1, min_size)) & (lift > 1))
        rows = rows[np.argsort(-share[rows] * np.log(lift[rows]), kind="stable")][:MOST_VALUES]
        return [ProfileValue(name, values[int(v)].as_py(), *map(float, (share[v], of_all[v], lift[v]))) for v in rows]

    def event_mix(self, types: Sequence[str]) -> list[list[EventShare]]:
        """Return for each segment the mean of members' shares of each of the T event types."""
        members = self.members
        return [
            [
                EventShare(name, _ratio(share[segment], members[segment]), _ratio(share.sum(), members.sum()))
                for name, share in zip(types, self._types.T, strict=True)
            ]
            for segment in range(len(members))
        ]

    def means(self) -> list[list[ProfileMean]]:
        """Return for each segment the mean length of a history, and the mean of each number of the events' items."""
        sums = {LENGTH: np.stack([self._length, self.members]), **self._sums}
        return [
            [ProfileMean(name, _ratio(*each[:, segment]), _ratio(*each.sum(axis=1))) for name, each in sums.items()]
            for segment in range(len(self.members))
        ]


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")
