"""Splits: which events are for training, validation and testing.

Every split cuts each session in two places: its first events train, the next validate, the rest test.
Shapes: S sessions. Memory: a few numbers a session, and the times that `Sessions.times` yields at once.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY
from twotower.core.ragged import ranges

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
LABELS = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
LABELS |= {"test": TEST}
MOST_CUT = 0.5  # of the sessions of a window, fewer may have begun before it
BINS = 1 << 16  # of the histogram by which the start of a window is determined


class Sessions(NamedTuple):
    """What a split decides on.

    >>> length, start, end = np.array([4, 2]), np.array([1, 3]), np.array([9, 7])
    >>> leave_one_out(Sessions(length, start, end, times=lambda chosen: [], labelled=None)).train
    array([2, 2])
    """

    length: Array  # [S] number of events
    start: Array  # [S] time of the first event
    end: Array  # [S] time of the last event
    times: Callable[[Array], Iterable[Array]]  # of the events of chosen sessions, some whole ones at a time
    labelled: Array | None  # [S, 3] events that the split column gives to training, validation, test
    timed: bool = True  # whether timestamps have a unit


class Split(NamedTuple):
    """How many events of each session are in which part, and the manifest's entry `split`.

    >>> Split(train=np.array([2]), validation=np.array([1]), facts={"kind": "leave_one_out"}).facts["kind"]
    'leave_one_out'
    """

    train: Array  # [S] number of first events that train
    validation: Array  # [S] number of next events that validate; the rest test
    facts: dict[str, Any]


def temporal(
    sessions: Sessions, test_fraction: float, validation_fraction: float, test_days: float | None = None
) -> Split:
    """Test on the latest events, and validate on those before them, whatever session they are of.

    A session that crosses the start of a window is cut there: its earlier events are history for the later ones, and
    belong to the part of their own time. Events of the same moment stay together, in the later window.

    Args:
        sessions: of all events.
        test_fraction: of the sessions, by their ends; of the events where sessions outlive that window.
        validation_fraction: likewise of what is earlier.
        test_days: where given, the events of the last so many days test, instead of `test_fraction`.
    """
    if test_days is None:
        test_start = _start_of_latest(sessions, sessions.length, test_fraction, "test")
    else:
        if not sessions.timed:
            raise UserError("split.test_days: the timestamps have no unit; use split.test_fraction instead")
        test_start = _start_of_days(sessions, test_days)
    before_test = _count_before(sessions, test_start)
    validation_start = _start_of_latest(sessions, before_test, validation_fraction, "validation")
    train = _count_before(sessions, validation_start)
    facts = {"kind": "temporal", "test_start": test_start, "validation_start": validation_start}
    return Split(train, before_test - train, facts)


def predefined(sessions: Sessions, validation_fraction: float) -> Split:
    """Follow the split column; if it has no validation, the latest training events validate.

    Raises UserError where there is no split column.
    """
    if sessions.labelled is None:
        raise UserError("split=predefined needs a split column: data.columns.split=NAME")
    train, validation = sessions.labelled[:, TRAIN], sessions.labelled[:, VALIDATION]
    facts: dict[str, Any] = {"kind": "predefined"}
    if not validation.any():
        facts["validation_start"] = start = _start_of_latest(sessions, train, validation_fraction, "validation")
        before = np.minimum(_count_before(sessions, start), train)
        train, validation = before, train - before
    return Split(train, validation, facts)


def leave_one_out(sessions: Sessions) -> Split:
    """Test on the last event of each session, and validate on the one before; sessions of under three events train."""
    long = sessions.length >= 3
    return Split(sessions.length - 2 * long, 1 * long, {"kind": "leave_one_out"})


def read_labels(column: pl.Series) -> pl.Series:
    """Convert a split column to UInt8 TRAIN, VALIDATION and TEST; raises UserError for other values."""
    names = column.str.to_lowercase()
    unknown = sorted(set(names.unique()) - set(LABELS))
    if unknown:
        raise UserError(f"the split column holds '{unknown[0]}'; expected train, validation or test")
    return names.replace_strict(LABELS, return_dtype=pl.UInt8)


def require_targets(split: Split, length: Array) -> None:
    """Raise UserError where a part of the split has no event that others precede in its session [S]."""
    bounds = [np.zeros_like(length), split.train, split.train + split.validation, length]
    for name, first, end in zip(PARTS, bounds, bounds[1:], strict=False):
        if not (end > np.maximum(first, 1)).any():
            events = {part: int((b - a).sum()) for part, a, b in zip(PARTS, bounds, bounds[1:], strict=False)}
            raise UserError(
                f"split={split.facts['kind']} leaves events of {events}, and none of {name} follows another one of its "
                "session, so there is no next item to predict; expected some in each part. Give more events, or other "
                "windows (split.test_fraction, split.test_days, split.validation_fraction)"
            )


def _by_session(sessions: Sessions, chosen: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield some of the chosen sessions, where each begins, and the times of their events."""
    offsets = np.concatenate([[0], np.cumsum(sessions.length[chosen])])
    first = 0
    for times in sessions.times(chosen) if len(chosen) else ():
        last = int(np.searchsorted(offsets, offsets[first] + len(times)))
        yield chosen[first:last], offsets[first:last] - offsets[first], times
        first = last


def _count_before(sessions: Sessions, time: int) -> Array:
    """Return the number [S] of events of each session before `time`."""
    before = np.where(sessions.end < time, sessions.length, 0).astype(np.int64)
    for some, starts, times in _by_session(sessions, np.flatnonzero((sessions.start < time) & (sessions.end >= time))):
        before[some] = np.add.reduceat(times < time, starts, dtype=np.int64)
    return before


def _start_of_latest(sessions: Sessions, kept: Array, fraction: float, name: str) -> int:
    """Return the time from which on the latest `fraction` lies of the first `kept` [S] events of each session.

    It is the fraction of the sessions, by their ends, so that visits are whole. Where half of these sessions began
    before their window it is the fraction of the events: the ends of histories of months all lie in the last days.

    Raises UserError where nothing is earlier.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"split.{name}_fraction={fraction}; expected a number between 0 and 1")
    whole = kept == sessions.length
    begin, end = sessions.start[whole], sessions.end[whole]
    if len(end):
        place = len(end) - max(1, round(len(end) * fraction))
        start = int(np.partition(end, place)[place])
        if end.min() < start and (begin[end >= start] < start).mean() < MOST_CUT:
            return start

    def read() -> Iterator[Array]:
        for some, _, times in _by_session(sessions, np.arange(len(kept))):
            length = sessions.length[some]
            yield times[ranges(np.zeros_like(length), length) < np.repeat(kept[some], length)]

    return _start_of_latest_events(read, fraction, name)


def _start_of_latest_events(read: Callable[[], Iterable[Array]], fraction: float, name: str) -> int:
    """Return the time from which on the latest `fraction` of the events lie; reads all of them a few times."""
    ends = [(int(times.min()), int(times.max()), len(times)) for times in read() if len(times)]
    low = earliest = min((e[0] for e in ends), default=0)
    high, events = max((e[1] for e in ends), default=0), sum(e[2] for e in ends)
    later = max(1, round(events * fraction))  # wanted from the start on
    while low < high:  # a histogram of low .. high tells in which of its bins the start lies
        width = (high - low) // BINS + 1
        counts = np.zeros(BINS, dtype=np.int64)
        for times in read():
            counts += np.bincount((times[(times >= low) & (times <= high)] - low) // width, minlength=BINS)
        total = counts[::-1].cumsum()
        chosen = BINS - 1 - int(np.searchsorted(total, later))
        later -= int(counts[chosen + 1 :].sum())
        low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
    if low == earliest:
        raise UserError(
            f"of {events:,} events none is before the {name} window, so nothing is left to train on; "
            "expected more events, or more different times, for this split"
        )
    return low


def _start_of_days(sessions: Sessions, days: float) -> int:
    """Return where the last `days` of the events begin."""
    if isinstance(days, bool) or not isinstance(days, int | float) or not days > 0:
        raise UserError(f"split.test_days={days}; expected a number of days above 0")
    start = int(sessions.end.max()) + 1 - round(days * MS_PER_DAY)
    if sessions.start.min() >= start:
        raise UserError(f"split.test_days={days}: all events are of these days; give fewer")
    return start
