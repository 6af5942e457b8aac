"""Bags: any number of codes for each value. Shapes: N values, T codes of all values."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Array
from twotower.core.ragged import ranges


class Bags(NamedTuple):
    """One code or more for each value: value r has codes[offsets[r]:offsets[r + 1]].

    >>> bags(np.array([5, 7]), length=np.array([2, 0])).codes  # a value without codes gets 0
    array([5, 7, 0], dtype=int32)
    """

    codes: npt.NDArray[np.int32]  # [T]
    offsets: npt.NDArray[np.int64]  # [N + 1]


def bags(codes: Array, length: Array) -> Bags:
    """Return the bags of codes [T], of which each value has `length` [N]; a value without any gets code 0."""
    offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 1))]).astype(np.int64)
    filled = np.zeros(offsets[-1], dtype=np.int32)
    filled[ranges(offsets[:-1], length)] = codes
    return Bags(filled, offsets)
