"""What marks segments of users against all of them. Each member counts the same, however long the history.

Shapes: V items, C segments, s histories of a part, e events of them, U different values of a feature, T event types.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower.core.files import read_json
from twotower.core.ragged import runs
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE
from twotower.serving.bundle import Bundle
from twotower.serving.filters import Numbers, numbers_of
from twotower.serving.histories import Known
from twotower.serving.lists import Groups, groups_of

MARKS = 5  # values of a feature that are named
LENGTH = "events"  # of a history, as far as the bundle knows its items
Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Mark(NamedTuple):
    """A value that members of a segment have met more often than others."""

    feature: str
    value: str
    share: float  # of the segment's members that have an event with an item of this value
    share_of_all: float  # of all members of all segments
    lift: float  # the one by the other


class Mean(NamedTuple):
    """The mean of something over the members that have it; NaN where none has."""

    name: str
    mean: float  # of the segment's
    mean_of_all: float


class Near(NamedTuple):
    """An item with a high score for a segment's centroid."""

    item_id: int | str
    item_name: str | None
    score: float


class Segment(NamedTuple):
    """What is told of a segment; in shares and means each member counts the same."""

    segment: int  # 1 is the largest
    size: int  # members
    share: float  # of all members
    event_mix: list[Mean]  # shares of event types, none where events are not told apart
    marks: list[Mark]  # what members have met more often than others have
    means: list[Mean]  # events of a history, and price and other numbers of their items
    items: list[Near]  # the nearest ones, best first


def item_columns(bundle: Bundle) -> tuple[dict[str, Groups], dict[str, Numbers]]:
    """The items' features that have values (kinds categorical and multi), and those of numbers (numeric and price)."""
    encoders: Mapping[str, Any] = read_json(bundle.file(FEATURES_FILE), "a bundle").get("items", {})
    file = bundle.file(ITEMS_FILE)
    kinds = {name: encoders[name]["kind"] for name in pq.read_schema(file).names if name in encoders}
    groups = [name for name, kind in kinds.items() if kind in ("categorical", "multi")]
    numbers = [name for name, kind in kinds.items() if kind == "numeric"]
    return (
        {name: groups_of(pq.read_table(file, columns=[name])[name]) for name in groups},
        {name: numbers_of(pq.read_table(file, columns=[name])[name]) for name in numbers},
    )


class Tally:
    """Counts by segment, added up part by part; memory: 8 bytes for each segment and value of each feature."""

    def __init__(self, segments: int, types: int, groups: Mapping[str, Groups], numbers: Mapping[str, Numbers]) -> None:
        self._groups, self._numbers = groups, numbers
        self.members = np.zeros(segments, dtype=np.int64)
        self._length = np.zeros(segments, dtype=np.int64)
        self._types = np.zeros((segments, types))  # sums of members' shares
        self._holders = {name: np.zeros((segments, len(g.values)), dtype=np.int64) for name, g in groups.items()}
        self._sums = {name: np.zeros((2, segments)) for name in numbers}  # of members' means, and how many have one

    def add(self, known: Known, event_type: Array, segment: Ints) -> None:
        """Add s histories [e], none of them empty, of these segments [s]."""
        segments, count = len(self.members), len(segment)
        self.members += np.bincount(segment, minlength=segments)
        self._length += np.bincount(segment, known.length, minlength=segments).astype(np.int64)
        member, row = np.repeat(np.arange(count), known.length), known.item_index - 1
        if self._types.shape[1]:
            key = segment[member] * self._types.shape[1] + event_type
            self._types.ravel()[:] += np.bincount(key, 1 / known.length[member], minlength=self._types.size)
        for name, groups in self._groups.items():
            length = np.diff(groups.offsets)[row]
            code = groups.codes[runs(groups.offsets[row], length)].astype(np.int64)
            has = np.unique(np.repeat(member, length) * len(groups.values) + code)  # each member once
            if len(has):
                who, value = np.divmod(has, len(groups.values))
                np.add.at(self._holders[name], (segment[who], value), 1)
        for name, numbers in self._numbers.items():
            some = ~numbers.is_null[row]
            held = np.bincount(member[some], minlength=count)
            total = np.bincount(member[some], numbers.values[row[some]], minlength=count)
            has = held > 0
            self._sums[name] += [
                np.bincount(segment[has], total[has] / held[has], minlength=segments),
                np.bincount(segment[has], minlength=segments),
            ]

    def marks(self, min_size: int) -> list[list[Mark]]:
        """For each segment and feature MARKS values at most, with a lift above one and `min_size` members or more.

        They are in the order of share * log(lift), what a value adds to telling the segment from all (its part of the
        Kullback-Leibler divergence): a rare value needs a larger lift than a frequent one.
        """
        return [
            [mark for name in self._groups for mark in self._marks(name, segment, min_size)]
            for segment in range(len(self.members))
        ]

    def _marks(self, name: str, segment: int, min_size: int) -> list[Mark]:
        holders, values = self._holders[name], self._groups[name].values
        share, of_all = holders[segment] / self.members[segment], holders.sum(axis=0) / self.members.sum()
        lift = np.divide(share, of_all, out=np.zeros_like(share), where=of_all > 0)
        some = np.flatnonzero((holders[segment] >= max(1, min_size)) & (lift > 1))
        best = some[np.argsort(-share[some] * np.log(lift[some]), kind="stable")][:MARKS]
        return [Mark(name, values[int(v)].as_py(), float(share[v]), float(of_all[v]), float(lift[v])) for v in best]

    def event_mix(self, types: Sequence[str]) -> list[list[Mean]]:
        """For each segment, and each of the T types: the mean of members' shares of events of that type."""
        return [
            [
                Mean(name, _ratio(share[segment], self.members[segment]), _ratio(share.sum(), self.members.sum()))
                for name, share in zip(types, self._types.T, strict=True)
            ]
            for segment in range(len(self.members))
        ]

    def means(self) -> list[list[Mean]]:
        """For each segment: the events of a history, and of each feature of numbers the mean of its events' items."""
        sums = {LENGTH: np.stack([self._length, self.members]), **self._sums}
        return [
            [Mean(name, _ratio(*each[:, segment]), _ratio(*each.sum(axis=1))) for name, each in sums.items()]
            for segment in range(len(self.members))
        ]


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")
