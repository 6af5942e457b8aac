"""Counts of rows and of prepared events, for the manifest, the audit and the data card.

Shapes: e events and s sessions of one block.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import local_hours
from twotower.data.preparation.blocks import SortedSessions
from twotower.data.preparation.first_pass import PartitionedEvents
from twotower.data.preparation.splits import PARTS, TRAIN

OUTSIDE = "test event of an item outside the catalogue"  # reason for which a row is dropped


class EventStatistics:
    """Counts of events by type and part, day, hour and code of each input, added up block by block.

    Args:
        event_types: names by code.
        sizes: event input -> number of codes.
        zone: time zone of days and hours; None where the timestamps are ordinals.

    >>> statistics = EventStatistics(["view"], {}, None)
    >>> statistics.add(np.array([2]), np.array([0, 0]), np.array([5, 6]), np.array([0, 2]), {})
    >>> statistics.as_json()["types"]
    {'view': {'train': 1, 'validation': 0, 'test': 1}}
    """

    def __init__(self, event_types: Sequence[str], sizes: Mapping[str, int], zone: str | None) -> None:
        self.event_types, self.zone = event_types, zone
        self.types = np.zeros((len(event_types), len(PARTS)), dtype=np.int64)
        self.days: Counter[tuple[int, int]] = Counter()
        self.hours = np.zeros(24, dtype=np.int64)
        self.lengths = np.zeros(1, dtype=np.int64)
        self.inputs = {name: np.zeros((2, size), dtype=np.int64) for name, size in sizes.items()}

    def add(self, length: Array, event_type: Array, timestamp: Array, part: Array, codes: Mapping[str, Array]) -> None:
        """Add events [e] of sessions of these lengths [s]."""
        width = len(PARTS)
        self.types += np.bincount(event_type * np.int64(width) + part, minlength=self.types.size).reshape(-1, width)
        lengths = np.bincount(length, minlength=len(self.lengths))
        lengths[: len(self.lengths)] += self.lengths
        self.lengths = lengths
        for name, counts in self.inputs.items():
            keys = (part != TRAIN) * np.int64(counts.shape[1]) + codes[name]
            counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
        if self.zone is not None:
            hours = local_hours(timestamp, self.zone)
            self.hours += np.bincount(hours % 24, minlength=24)
            days, events = _counted(hours // 24 * len(self.event_types) + event_type)
            for key, count in zip(days.tolist(), events.tolist(), strict=True):
                self.days[divmod(key, len(self.event_types))] += count

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON."""
        days: dict[str, dict[str, int]] = {}
        for (day, kind), count in sorted(self.days.items()):
            days.setdefault(str(date(1970, 1, 1) + timedelta(days=day)), {})[self.event_types[kind]] = count
        return {
            "days": days,
            "hours": self.hours.tolist() if self.zone is not None else [],
            "session_lengths": _nonzero(self.lengths),
            "longest_session": len(self.lengths) - 1,
            "types": {
                kind: dict(zip(PARTS, counts, strict=True))
                for kind, counts in zip(self.event_types, self.types.tolist(), strict=True)
            },
            "input_counts": {
                name: {"train": _nonzero(counts[0]), "other": _nonzero(counts[1])}
                for name, counts in self.inputs.items()
            },
        }


def _counted(keys: Array) -> tuple[Array, Array]:
    """Return the distinct keys, and how often each comes; without sorting where they lie close together.

    >>> _counted(np.array([7, 9, 7]))
    (array([7, 9]), array([2, 1]))
    """
    if len(keys) == 0 or int(keys.max()) - (low := int(keys.min())) > 4 * len(keys):
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys - low)
    return np.flatnonzero(counts) + low, counts[counts > 0]


def _nonzero(counts: Array) -> dict[str, int]:
    return {str(value): int(count) for value, count in enumerate(counts) if count}


def count_rows(
    events: PartitionedEvents,
    sessions: SortedSessions,
    test_events: int,
    dropped: Counter[str],
    counts: dict[str, Any],
    split: str,
) -> dict[str, Any]:
    """Account for every row that was read; return `counts` (of EventStatistics) with the counts of all passes.

    Raises UserError where the training, validation or test part is empty.
    """
    dropped = events.dropped + Counter(sessions.counts.dropped) + dropped
    kept = {part: sum(kind[part] for kind in counts["types"].values()) for part in PARTS}
    if 0 in kept.values():
        raise UserError(
            f"split={split} leaves events of {kept}; expected some in each part. "
            f"Dropped: {', '.join(f'{count:,} {reason}' for reason, count in dropped.items()) or 'none'}"
        )
    outside = dropped[OUTSIDE]
    facts = {**sessions.split.facts, "events": kept, "test_events_outside_catalogue": outside / max(1, test_events)}
    return {
        **counts,
        "rows": {"read": events.rows, "kept": sum(kept.values()), "dropped": dict(dropped)},
        "split": facts,
        "losses": events.losses.as_json(),
        "timestamp_unit": events.unit,
        "timestamp_units": dict(events.units),
        "whole_hour_pauses": {"whole": sessions.counts.whole, "near": sessions.counts.near},
        "sessions_of_several_users": sessions.counts.of_several_users,
        "targets_outside_catalogue": {"test_events": test_events, "outside": outside},
    }


def count_unlisted(events: Array, listed: Array, ids: pl.Series) -> dict[str, Any]:
    """Count the items that a table of items lacks, and their events; the example is the one of most events.

    Args:
        events: [K + 1] number of events of each item; 0 is none.
        listed: [K + 1] whether the table has the item.
        ids: [K] of the items, from place 1 on.
    """
    lost = np.where(listed, 0, events)
    example = str(ids[int(lost.argmax()) - 1]) if lost.any() else None
    return {"items": int((lost > 0).sum()), "events": int(lost.sum()), "of": int(events.sum()), "example": example}
