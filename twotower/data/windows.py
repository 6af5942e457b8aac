"""Which part of a session is one row of a batch, and which of its events are targets.

A window is one row: its history is the events [start, start + length), its targets are one event further; columns
before `first_query` are context only. Shapes: W windows.
"""

from typing import NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY
from twotower.core.ragged import ranges


class Windows(NamedTuple):
    """Rows to gather, as positions in the flat arrays.

    >>> training_windows(start=np.array([0, 5]), end=np.array([5, 7]), max_length=3).length
    array([3, 2, 1])
    """

    start: Array  # [W]
    length: Array  # [W]
    first_query: Array  # [W]


def training_windows(start: Array, end: Array, max_length: int) -> Windows:
    """Cut each session [start, end) into rows so that every event but its first is a target exactly once.

    The first half of each row but a session's first is context that the row before had as queries: a model that is
    asked with full histories has to learn from such.
    """
    inputs = np.maximum(end - start - 1, 0)
    context = max_length // 2
    step = max_length - context
    pieces = -(-np.maximum(inputs - context, np.minimum(inputs, 1)) // step)
    session = np.repeat(np.arange(len(start)), pieces)
    offset = ranges(np.zeros_like(pieces), pieces) * step
    length = np.minimum(max_length, inputs[session] - offset)
    return Windows(start[session] + offset, length, np.where(offset > 0, context, 0))


class Newest(NamedTuple):
    """Which rows of training an epoch has: those of the newest days, and a sample of the others."""

    days: float  # before the newest event of training
    replay: float  # share of the other rows


def newest_of(days: float | None, replay: float, is_timed: bool) -> Newest | None:
    """Return what the settings newest_days and replay ask for; None: all rows.

    Raises:
        UserError: the data's timestamps tell the order alone.
    """
    if days is None:
        return None
    if not is_timed:
        raise UserError(
            f"newest_days={days:g} needs times, and this data's timestamps tell the order alone; take null, or "
            "prepare the data with its data.timestamp_unit"
        )
    return Newest(float(days), float(replay))


def newest_windows(windows: Windows, timestamp: Array, newest: Newest | None, seed: int) -> Windows:
    """Return the rows whose last target is of the newest days, and a sample of the others.

    >>> windows = Windows(np.array([0, 3, 6]), np.array([2, 2, 2]), np.array([0, 0, 0]))
    >>> days = np.repeat([1, 5, 9], 3) * MS_PER_DAY
    >>> newest_windows(windows, days, Newest(days=5, replay=0.0), seed=0).start
    array([3, 6])

    Args:
        windows: of training.
        timestamp: [E] milliseconds.
        newest: which rows; None: all.
        seed: of the sample.
    """
    if newest is None or len(windows.start) == 0:
        return windows
    time = np.asarray(timestamp)[windows.start + windows.length]
    kept = time > time.max() - newest.days * MS_PER_DAY
    kept |= np.random.default_rng(seed).random(len(kept)) < newest.replay
    return Windows(*(column[kept] for column in windows))


def query_windows(start: Array, first: Array, end: Array, max_length: int, min_history: int) -> Windows:
    """Return rows in which each event of [first, end) is a target once, after its last `max_length` events.

    One row holds all queries with a history of up to `max_length`; each later query has a row of its own, so that the
    model gets exactly what it would get in serving.
    """
    if min_history < 1:
        raise UserError(f"evaluation.min_history={min_history}; a query needs a history of at least one event")
    first = np.maximum(first, start + min_history)
    together = np.minimum(end - 1, start + max_length)
    some = np.flatnonzero(first <= together)
    row = Windows(start[some], together[some] - start[some], first[some] - start[some] - 1)
    later = np.maximum(first, start + max_length + 1)
    target = ranges(later, np.maximum(end - later, 0))
    full = np.full(len(target), max_length)
    return Windows(*map(np.concatenate, zip(row, (target - max_length, full, full - 1), strict=True)))
