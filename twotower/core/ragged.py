"""Rows of different lengths that lie end to end in one array."""

import numpy as np

from twotower.core.arrays import Array


def ranges(start: Array, length: Array) -> Array:
    """Concatenate the ranges start[i], start[i] + 1, ..., start[i] + length[i] - 1.

    >>> ranges(np.array([10, 3]), np.array([2, 3]))
    array([10, 11,  3,  4,  5])
    """
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(length.sum())


def place_in_group(group: Array) -> Array:
    """[N] position 0, 1, 2, ... of each element within its run of equal values; `group` [N] is ascending.

    >>> place_in_group(np.array([4, 4, 7, 9, 9, 9]))
    array([0, 1, 0, 0, 1, 2])
    """
    return np.arange(len(group)) - np.searchsorted(group, group)
