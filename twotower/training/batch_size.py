"""Batch size that follows from the data: small shops need enough steps, large ones train faster by larger steps."""

from twotower.core.schema import Prepared
from twotower.data.windows import training_windows

STEPS = 320  # that an epoch has at least: experiments/2026-11-30-settings-from-data.md
SMALLEST, LARGEST = 128, 8192


def batch_size(prepared: Prepared, max_length: int) -> int:
    """Return the positions of a training step for this data: see positions_per_step.

    Validation events do not count, so that a refit takes the same steps.
    """
    rows = training_windows(prepared.offsets[:-1], prepared.train_end, max_length)
    return positions_per_step(int(rows.length.sum()))


def positions_per_step(positions: int) -> int:
    """Return the largest power of two, from 128 to 8,192, with which an epoch has 320 steps or more.

    Args:
        positions: of all rows of an epoch, with those that are context alone.

    >>> positions_per_step(650_000), positions_per_step(1000)
    (1024, 128)
    """
    size = 1 << max(positions // STEPS, 1).bit_length() - 1
    return min(max(size, SMALLEST), LARGEST)
