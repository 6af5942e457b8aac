"""Which events train, which validate and which test.

Every split is a pair of positions in each session: events before `train_end` train, those from there to
`validation_end` validate, the rest test. Shapes: E events, S sessions; positions count from the first event.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.errors import UserError

Array = npt.NDArray[Any]
TRAIN, VALIDATION, TEST = 0, 1, 2
LABELS = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION}
LABELS |= {"test": TEST}


class Split(NamedTuple):
    """Where each session's parts end, and what the manifest says of it."""

    train_end: Array  # [S]
    validation_end: Array  # [S]
    facts: dict[str, Any]


def temporal(
    offsets: Array, timestamp: Array, labels: Array | None, test_fraction: float, validation_fraction: float
) -> Split:
    """The sessions that end last test, those that end before them validate, whole sessions each.

    A session belongs to the window in which it ends, so no training event is later than the split.
    Sessions that end at the same moment stay together, in the later window.
    """
    end = timestamp[offsets[1:] - 1]
    part = np.full(len(end), TRAIN)
    facts: dict[str, Any] = {"kind": "temporal"}
    facts["test_start"] = _label_latest(part, end, test_fraction, TEST, "test")
    facts["validation_start"] = _label_latest(part, end, validation_fraction, VALIDATION, "validation")
    start, stop = offsets[:-1], offsets[1:]
    return Split(np.where(part == TRAIN, stop, start), np.where(part == TEST, start, stop), facts)


def predefined(offsets: Array, timestamp: Array, labels: Array | None, validation_fraction: float) -> Split:
    """The split column says train, validation or test; without validation, the latest training sessions do.

    Raises UserError for other values, or where a session goes back from test to training.
    """
    if labels is None:
        raise UserError("split=predefined needs a split column: data.columns.split=NAME")
    names = pl.Series(labels, dtype=pl.String).str.to_lowercase()
    unknown = sorted(set(names.unique()) - set(LABELS))
    if unknown:
        raise UserError(f"the split column holds '{unknown[0]}'; expected train, validation or test")
    part = names.replace_strict(LABELS, return_dtype=pl.Int64).to_numpy()
    start, stop = offsets[:-1], offsets[1:]
    session = np.repeat(np.arange(len(start)), stop - start)
    backwards = (np.diff(part) < 0) & (np.diff(session) == 0)
    if backwards.any():
        raise UserError(
            f"in {backwards.sum():,} places a session goes back in the split column, as from test to train; "
            "expected train, then validation, then test. Are the session and time columns right?"
        )
    facts: dict[str, Any] = {"kind": "predefined"}
    if not (part == VALIDATION).any():
        whole = np.flatnonzero(part[stop - 1] == TRAIN)
        latest = np.full(len(whole), TRAIN)
        end = timestamp[stop[whole] - 1]
        facts["validation_start"] = _label_latest(latest, end, validation_fraction, VALIDATION, "validation")
        of_session = np.full(len(start), TRAIN)
        of_session[whole] = latest
        part = np.maximum(part, of_session[session])
    count = [np.bincount(session[part == label], minlength=len(start)) for label in (TRAIN, VALIDATION)]
    return Split(start + count[TRAIN], start + count[TRAIN] + count[VALIDATION], facts)


def leave_one_out(offsets: Array, timestamp: Array, labels: Array | None) -> Split:
    """Each session's last event tests, the one before it validates; sessions of under three events train."""
    long = np.diff(offsets) >= 3
    stop = offsets[1:]
    return Split(stop - 2 * long, stop - long, {"kind": "leave_one_out"})


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
    chosen = (part == TRAIN) & (end >= start)
    part[chosen] = label
    return start
