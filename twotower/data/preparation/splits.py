"""Which events train, which validate and which test.

Every split cuts each session in two places: its first events train, the next validate, the rest test.
Shapes: S sessions.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError
from twotower.core.inputs import MS_PER_DAY

Array = npt.NDArray[Any]
TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
LABELS = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
LABELS |= {"test": TEST}


class Sessions(NamedTuple):
    """What a split may look at."""

    length: Array  # [S] events
    end: Array  # [S] the last event's timestamp
    labelled: Array | None  # [S, 3] events that the split column gives to training, validation, test


class Split(NamedTuple):
    """How many of each session's events are in which part, and what the manifest says of it."""

    train: Array  # [S] the first so many train
    validation: Array  # [S] the next so many validate; the rest test
    facts: dict[str, Any]


def temporal(
    sessions: Sessions, test_fraction: float, validation_fraction: float, test_days: float | None = None
) -> Split:
    """The sessions that end last test, those that end before them validate, whole sessions each.

    A session belongs to the window in which it ends, so no training event is later than the split.
    Sessions that end at the same moment stay together, in the later window. The test is the latest `test_fraction` of
    the sessions or, where given, those of the last `test_days` up to the end of all.
    """
    part = np.full(len(sessions.end), TRAIN, dtype=np.int8)
    facts: dict[str, Any] = {"kind": "temporal"}
    if test_days is None:
        facts["test_start"] = _label_latest(part, sessions.end, test_fraction, TEST, "test")
    else:
        facts["test_start"] = _label_days(part, sessions.end, test_days)
    facts["validation_start"] = _label_latest(part, sessions.end, validation_fraction, VALIDATION, "validation")
    return Split(sessions.length * (part == TRAIN), sessions.length * (part == VALIDATION), facts)


def predefined(sessions: Sessions, validation_fraction: float) -> Split:
    """The split column says train, validation or test; without validation, the latest training sessions do.

    Raises UserError where there is no split column.
    """
    if sessions.labelled is None:
        raise UserError("split=predefined needs a split column: data.columns.split=NAME")
    train, validation = sessions.labelled[:, TRAIN].copy(), sessions.labelled[:, VALIDATION].copy()
    facts: dict[str, Any] = {"kind": "predefined"}
    if not validation.any():
        whole = np.flatnonzero(train == sessions.length)
        latest = np.full(len(whole), TRAIN, dtype=np.int8)
        end = sessions.end[whole]
        facts["validation_start"] = _label_latest(latest, end, validation_fraction, VALIDATION, "validation")
        chosen = whole[latest == VALIDATION]
        train[chosen], validation[chosen] = 0, sessions.length[chosen]
    return Split(train, validation, facts)


def leave_one_out(sessions: Sessions) -> Split:
    """Each session's last event tests, the one before it validates; sessions of under three events train."""
    long = sessions.length >= 3
    return Split(sessions.length - 2 * long, 1 * long, {"kind": "leave_one_out"})


def read_labels(column: pl.Series) -> pl.Series:
    """A split column as UInt8 TRAIN, VALIDATION and TEST; raises UserError for other values."""
    names = column.str.to_lowercase()
    unknown = sorted(set(names.unique()) - set(LABELS))
    if unknown:
        raise UserError(f"the split column holds '{unknown[0]}'; expected train, validation or test")
    return names.replace_strict(LABELS, return_dtype=pl.UInt8)


def _label_latest(part: Array, end: Array, fraction: float, label: int, name: str) -> int:
    """Label the latest `fraction` of the sessions still in training; give the moment their ends begin."""
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
    """Label the sessions of the last `days` as TEST; give the moment their ends begin."""
    if isinstance(days, bool) or not isinstance(days, int | float) or not days > 0:
        raise UserError(f"split.test_days={days}; expected a number of days above 0")
    start = int(end.max()) + 1 - round(days * MS_PER_DAY)
    part[end >= start] = TEST
    if (part == TEST).all():
        raise UserError(f"split.test_days={days}: all {len(end):,} sessions end in these days; give fewer")
    return start
