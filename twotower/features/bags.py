"""Any number of codes for each value. Shapes: N values, T codes of all values."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.ragged import runs

Array = npt.NDArray[Any]


class Bags(NamedTuple):
    """Any number of codes, at least one, for each value: value r has codes[offsets[r]:offsets[r + 1]]."""

    codes: npt.NDArray[np.int32]  # [T]
    offsets: npt.NDArray[np.int64]  # [N + 1]


def bags(codes: Array, length: Array) -> Bags:
    """Codes [T] of values with `length` [N] each; a value without any gets code 0."""
    offsets = np.concatenate([[0], np.cumsum(np.maximum(length, 1))]).astype(np.int64)
    filled = np.zeros(offsets[-1], dtype=np.int32)
    filled[runs(offsets[:-1], length)] = codes
    return Bags(filled, offsets)
