"""Which events train, which validate and which test.

Every split is a pair of positions in each session: events before `train_end` train, those from there to
`validation_end` validate, the rest test. Shapes: E events, S sessions; positions count from the first event.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    Sessions that end at the same moment stay together, whatever the order of the rows.
    """
    end = timestamp[offsets[1:] - 1]
    part = np.full(len(end), TRAIN)
    facts: dict[str, Any] = {"kind": "temporal"}
    facts["test_start"] = _label_latest(part, end, test_fraction, TEST, "test")
    facts["validation_start"] = _label_latest(part, end, validation_fraction, VALIDATION, "validation")
    start, stop = offsets[:-1], offsets[1:]
    return Split(np.where(part == TRAIN, stop, start), np.where(part == TEST, start, stop), facts)


def predefined(offsets: Array, timestamp: Array, labels: Array | None, validation_fraction: float) -> Split:
    """The split column says train, validation or test; without validation, the latest training sessions validate.

    Raises UserError for other values, or where a session goes back from test to training.
    """
    if labels is None:
        raise UserError("split=predefined needs a split column: data.columns.split=NAME")
    values, code = np.unique(labels, return_inverse=True)
    unknown = [str(v) for v in values if str(v).lower() not in LABELS]
    if unknown:
        raise UserError(f"the split column holds '{unknown[0]}'; expected train, validation or test")
    part = np.array([LABELS[str(v).lower()] for v in values])[code]
    start, stop = offsets[:-1], offsets[1:]
    session = np.repeat(np.arange(len(start)), stop - start)
    backwards = (np.diff(part) < 0) & (np.diff(session) == 0)
    if backwards.any():
        raise UserError(f"in {backwards.sum():,} places a session's training event comes after its test event")
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
    """Each session's last event tests and the one before it validates; sessions of under three events train."""
    long = np.diff(offsets) >= 3
    stop = offsets[1:]
    return Split(stop - 2 * long, stop - long, {"kind": "leave_one_out"})


def _label_latest(part: Array, end: Array, fraction: float, label: int, name: str) -> int:
    """Label the latest `fraction` of the sessions still in training; give the moment at which they begin to end."""
    if not 0 < fraction < 1:
        raise UserError(f"split.{name}_fraction={fraction}; expected a number between 0 and 1")
    ends = np.sort(end[part == TRAIN])
    start = int(ends[min(int(np.ceil(len(ends) * (1 - fraction))), len(ends) - 1)]) if len(ends) else 0
    chosen = (part == TRAIN) & (end >= start)
    if chosen.sum() == (part == TRAIN).sum():
        raise UserError(
            f"no session ends before the {name} window (which begins at {start}), so nothing is left to train "
            "on; there are too few different end times or too few sessions for this split"
        )
    part[chosen] = label
    return start
