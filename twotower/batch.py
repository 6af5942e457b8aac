"""Batches of sessions, and the one function that turns events into model input, in training and in serving.

Shapes: B sessions (rows), L history length of the widest row, E events.
Histories are oldest first and padded on the right, so padding comes after everything a causal tower sees.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.schema import PAD


class SessionBatch(NamedTuple):
    """Rows of history with the item that followed each position; arrays or tensors."""

    item_index: Any  # [B, L] the history, PAD where the row has ended
    target: Any  # [B, L] the next item, PAD where the position is no query
    target_type: Any  # [B, L] the next event's type


def build_history(
    events: npt.NDArray[Any], end: npt.NDArray[Any], available: npt.NDArray[Any], max_length: int
) -> npt.NDArray[np.int64]:
    """Gather the last `max_length` of the `available` events before position `end`, for each row.

    Args:
        events: [E] any integer column of the events, session after session.
        end: [B] position just after each history's newest event.
        available: [B] how many events of the session lie before `end`; 0 gives a row of PAD.
        max_length: the longest history kept.

    Returns:
        [B, L] int64, oldest first, PAD on the right; L is the longest row's length, at least 1.
    """
    length = np.minimum(available, max_length)
    width = max(1, int(length.max(initial=0)))
    column = np.arange(width)
    position = (end - length)[:, None] + column
    inside = column < length[:, None]
    if len(events) == 0:
        return np.full(position.shape, PAD, dtype=np.int64)
    return np.where(inside, events[np.where(inside, position, 0)], PAD).astype(np.int64)
