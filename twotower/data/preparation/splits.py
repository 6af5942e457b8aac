"""Splits: which events are for training, validation and testing.

Every split cuts each session in two places: its first events train, the next validate, the rest test.
Shapes: S sessions.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
LABELS = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
LABELS |= {"test": TEST}


class Sessions(NamedTuple):
    """What a split decides on.

    >>> sessions = Sessions(length=np.array([4, 2]), end=np.array([90, 70]), labelled=None)
    >>> leave_one_out(sessions).train
    array([2, 2])
    """

    length: Array  # [S] number of events
    end: Array  # [S] timestamp of the last event
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
    """Test on the sessions that end last, and validate on those that end before them; whole sessions each.

    A session belongs to the window in which it ends, so no training event is later than the split. Sessions that end at
    the same moment stay together, in the later window.

    Args:
        sessions: of all events.
        test_fraction: share of the sessions that test.
        validation_fraction: share of the other sessions that validate.
        test_days: where given, the sessions that end in the last so many days test, instead of `test_fraction`.
    """
    part = np.full(len(sessions.end), TRAIN, dtype=np.int8)
    if test_days is None:
        test_start = _label_latest(part, sessions.end, test_fraction, TEST)
    else:
        if not sessions.timed:
            raise UserError("split.test_days: the timestamps have no unit; use split.test_fraction instead")
        test_start = _label_days(part, sessions.end, test_days)
    validation_start = _label_latest(part, sessions.end, validation_fraction, VALIDATION)
    facts = {"kind": "temporal", "test_start": test_start, "validation_start": validation_start}
    return Split(sessions.length * (part == TRAIN), sessions.length * (part == VALIDATION), facts)


def predefined(sessions: Sessions, validation_fraction: float) -> Split:
    """Follow the split column; if it has no validation, the latest training sessions validate.

    Raises UserError where there is no split column.
    """
    if sessions.labelled is None:
        raise UserError("split=predefined needs a split column: data.columns.split=NAME")
    train, validation = sessions.labelled[:, TRAIN].copy(), sessions.labelled[:, VALIDATION].copy()
    facts: dict[str, Any] = {"kind": "predefined"}
    if not validation.any():
        whole = np.flatnonzero(train == sessions.length)
        part = np.full(len(whole), TRAIN, dtype=np.int8)
        facts["validation_start"] = _label_latest(part, sessions.end[whole], validation_fraction, VALIDATION)
        chosen = whole[part == VALIDATION]
        train[chosen], validation[chosen] = 0, sessions.length[chosen]
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


def _label_latest(part: Array, end: Array, fraction: float, label: int) -> int:
    """Label the latest `fraction` of the sessions still in training, and return the earliest of their ends."""
    name = PARTS[label]
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"split.{name}_fraction={fraction}; expected a number between 0 and 1")
    ends = np.sort(end[part == TRAIN])
    count = max(1, round(len(ends) * fraction))
    if len(ends) == 0 or ends[0] == ends[-count]:
        raise UserError(
            f"of {len(ends):,} sessions none ends before the {name} window, so nothing is left to train on; "
            "expected more sessions, or more different end times, for this split"
        )
    start = int(ends[-count])
    part[(part == TRAIN) & (end >= start)] = label
    return start


def _label_days(part: Array, end: Array, days: float) -> int:
    """Label the sessions that end in the last `days` as TEST, and return where these days begin."""
    if isinstance(days, bool) or not isinstance(days, int | float) or not days > 0:
        raise UserError(f"split.test_days={days}; expected a number of days above 0")
    start = int(end.max()) + 1 - round(days * MS_PER_DAY)
    part[end >= start] = TEST
    if (part == TEST).all():
        raise UserError(f"split.test_days={days}: all {len(end):,} sessions end in these days; give fewer")
    return start
