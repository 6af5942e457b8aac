"""Rows of different lengths that lie end to end in one array."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def runs(start: Array, length: Array) -> Array:
    """start[0], start[0] + 1, ..., `length[0]` of them, then those from start[1] on, and so forth."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(length.sum())


def place_in_group(group: Array) -> Array:
    """[N] 0, 1, 2, ... within each stretch of equal values of the ascending `group` [N]."""
    return np.arange(len(group)) - np.searchsorted(group, group)
