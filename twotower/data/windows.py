"""Which part of a session is one row of a batch, and which of its events are targets.

A window is one row: its history is the events [start, start + length), its targets are one event further; columns
before `first_query` are context only. Shapes: W windows.
"""

from typing import NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError
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
