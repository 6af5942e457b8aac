"""Batch size that follows from the data: small shops need enough steps, large ones train faster by larger steps."""

import numpy as np

from twotower.core.arrays import Array

STEPS = 300  # that an epoch has at least: experiments/2026-11-21-batch-size.md
SMALLEST, LARGEST = 512, 8192


def batch_size(sessions: Array) -> int:
    """Return the largest power of two, from 512 to 8,192, with which an epoch has 300 steps or more.

    Args:
        sessions: [S] number of training events of each session, of which all but the first are targets.

    >>> batch_size(np.full(200_000, 4)), batch_size(np.full(100, 4))
    (2048, 512)
    """
    targets = int(np.maximum(sessions - 1, 0).sum())
    return int(np.clip(1 << max(targets // STEPS, 1).bit_length() - 1, SMALLEST, LARGEST))
