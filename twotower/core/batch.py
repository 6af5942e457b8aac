"""Batches of sessions, and the functions that build histories from events, for training and serving alike.

Shapes: B sessions (rows), L history length of the widest row, K event inputs, E events.
Histories are oldest first and padded on the right, so a causal tower never sees padding before an event.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Array
from twotower.core.schema import PAD


class SessionBatch(NamedTuple):
    """Histories with the target of each position: the next event, or a later one (model.horizon). Arrays or tensors.

    >>> batch = SessionBatch(*np.zeros((7, 1, 3), dtype=np.int64))._replace(item_index=np.array([[5, 7, PAD]]))
    >>> batch.item_index != PAD
    array([[ True,  True, False]])
    """

    item_index: Any  # [B, L] items of the history, PAD after its end
    inputs: Any  # [B, L, K] codes of the event inputs of the history's events; 0 is unknown
    target: Any  # [B, L] item of the target, PAD where the position has no target
    target_type: Any  # [B, L] its event type
    target_weight: Any  # [B, L] float32; > 0: rank the target high, < 0: rank it low, 0: no target
    event: Any  # [B, L] its position among all events; that of the next event identifies a query
    target_time: Any  # [B, L] its time, whole seconds since 1970; 0 where the model has no input `time`


def build_history(events: Array, end: Array, available: Array, max_length: int) -> npt.NDArray[np.int64]:
    """Gather the last `max_length` of the `available` events before position `end`, for each row.

    Args:
        events: [E] any integer column of the events, session after session.
        end: [B] position just after the newest event of each history.
        available: [B] number of events of the session before `end`; 0 gives a row of PAD.
        max_length: number of events kept of a longer history.

    Returns:
        [B, L] int64, oldest first, PAD on the right; L is the length of the longest row, at least 1.

    >>> build_history(np.array([3, 1, 4, 9]), end=np.array([3, 4]), available=np.array([3, 1]), max_length=2)
    array([[1, 4],
           [9, 0]])
    """
    return gather(events, *history_positions(end, available, max_length))


def history_positions(end: Array, available: Array, max_length: int) -> tuple[Array, Array]:
    """Return positions [B, L] of the events of each history and their `valid` [B, L]: see build_history.

    With them `gather` reads several columns of the same histories. Positions are 0 where not valid.
    """
    length = np.minimum(available, max_length)
    column = np.arange(max(1, int(length.max(initial=0))))
    valid = column < length[:, None]
    return np.where(valid, (end - length)[:, None] + column, 0), valid


def gather(events: Array, position: Array, valid: Array) -> npt.NDArray[np.int64]:
    """Return [B, L] int64: the events at `position`, PAD where not `valid`."""
    if len(events) == 0:
        return np.full(position.shape, PAD, dtype=np.int64)
    return np.where(valid, np.take(events, position), PAD).astype(np.int64, copy=False)
