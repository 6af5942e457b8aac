"""Names of NumPy array types, whose shapes stand beside each use; and rows of a sample."""

from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_EXPONENT = 700.0  # exp of more overflows float64
Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def evenly(number: int, most: int) -> Ints:
    """Return up to `most` of the rows 0 to `number` - 1, evenly spread.

    >>> evenly(10, 4)
    array([0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, number - 1, min(most, number)).astype(np.int64))
