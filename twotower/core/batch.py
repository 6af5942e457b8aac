"""Batches of sessions, and the one way that events become model input, in training and in serving.

Shapes: B sessions (rows), L history length of the widest row, K event inputs, E events.
Histories are oldest first and padded on the right, so padding comes after everything a causal tower sees.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.schema import PAD

Array = npt.NDArray[Any]


class SessionBatch(NamedTuple):
    """Rows of history with the event that followed each position; arrays or tensors."""

    item_index: Any  # [B, L] the history, PAD where the row has ended
    inputs: Any  # [B, L, K] what is known of the history's events beside their items, as codes; 0 is unknown
    target: Any  # [B, L] the next item, PAD where the position has no target
    target_type: Any  # [B, L] the next event's type
    target_weight: Any  # [B, L] float32; > 0: rank the target high, < 0: rank it low, 0: there is none
    event: Any  # [B, L] the next event's position among all events: a query's name


def build_history(events: Array, end: Array, available: Array, max_length: int) -> npt.NDArray[np.int64]:
    """Gather the last `max_length` of the `available` events before position `end`, for each row.

    Args:
        events: [E] any integer column of the events, session after session.
        end: [B] position just after each history's newest event.
        available: [B] how many events of the session lie before `end`; 0 gives a row of PAD.
        max_length: the longest history kept.

    Returns:
        [B, L] int64, oldest first, PAD on the right; L is the longest row's length, at least 1.
    """
    return gather(events, *history_positions(end, available, max_length))


def history_positions(end: Array, available: Array, max_length: int) -> tuple[Array, Array]:
    """Where the events of each history lie, to gather several columns of them: see build_history.

    Returns:
        Positions [B, L], 0 where the row has ended, and [B, L] True where it has not.
    """
    length = np.minimum(available, max_length)
    column = np.arange(max(1, int(length.max(initial=0))))
    valid = column < length[:, None]
    return np.where(valid, (end - length)[:, None] + column, 0), valid


def gather(events: Array, position: Array, valid: Array) -> npt.NDArray[np.int64]:
    """[B, L] int64 the events at `position`, PAD where not `valid`."""
    if len(events) == 0:
        return np.full(position.shape, PAD, dtype=np.int64)
    return np.where(valid, np.take(events, position), PAD).astype(np.int64, copy=False)
