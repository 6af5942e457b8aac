"""Numbers: buckets, standardised values and vectors. Shapes: N values, W numbers a value."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.values import LISTS, number_of

LIMIT = 10.0  # standard deviations to which standardised numbers are clipped


class Dense(NamedTuple):
    """Numbers for each value; the last one is 1 for null, and the others are 0 then.

    >>> with_null_flag(np.array([[0.5], [9.0]]), is_null=np.array([False, True])).values
    array([[0.5, 0. ],
           [0. , 1. ]], dtype=float32)
    """

    values: npt.NDArray[np.float32]  # [N, W]


def numbers_of(values: Sequence[Any], decimal: str = ".") -> npt.NDArray[np.float64]:
    """Return [N] floats; NaN for null, for values that are not numbers (see core.values), and for infinity."""
    try:
        numbers = np.array(values, dtype=np.float64) if decimal == "." else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(values),):
        numbers = np.array([number_of(value, decimal) for value in values], dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def quantile_edges(numbers: Array, weight: Array, buckets: int) -> list[float]:
    """Return the edges of up to `buckets` buckets [edge, next edge) of about equal weight, none of them empty.

    Edge k is the value with the share of smaller values nearest to k / buckets, so equal values stay together. Any
    value but the least can be an edge.
    """
    value, count = _distinct(numbers, weight)
    if len(value) < 2:
        return []
    below = (np.cumsum(count) - count) * buckets  # integers, so that results do not depend on rounding
    mark = np.arange(1, buckets) * count.sum()
    above = np.searchsorted(below, mark).clip(max=len(value) - 1)
    under = (above - 1).clip(1)
    nearest = np.where(np.abs(mark - below[under]) <= np.abs(below[above] - mark), under, above)
    edges: list[float] = value[np.unique(nearest)].tolist()
    return edges


def moments(numbers: Array, weight: Array, log: bool) -> dict[str, Any]:
    """Return mean and standard deviation (1 where all values are equal), of signed logarithms with `log`."""
    value, count = _distinct(signed_log(numbers) if log else numbers, weight)
    mean, deviation = 0.0, 1.0
    if len(value):
        scale = float(np.abs(value).max()) or 1.0  # squares of large numbers would overflow
        mean = float(np.average(value / scale, weights=count))
        deviation = scale * float(np.sqrt(np.average((value / scale - mean) ** 2, weights=count))) or 1.0
        mean *= scale
    return {"log": log, "mean": mean, "deviation": deviation}


def _distinct(numbers: Array, weight: Array) -> tuple[Array, Array]:
    """Return the distinct numbers, ascending, and the weight of each, so that no sum depends on the order of values."""
    valid = ~np.isnan(numbers) & (weight > 0)
    value, inverse = np.unique(numbers[valid], return_inverse=True)
    return value, np.bincount(inverse, weights=weight[valid], minlength=len(value)).astype(np.int64)


def standard(numbers: Array, encoder: Mapping[str, Any]) -> Array:
    """Return [N] standardised numbers, clipped to LIMIT deviations so that outliers do not dominate."""
    level = (signed_log(numbers) if encoder["log"] else numbers) / encoder["deviation"]
    clipped: Array = np.clip(level - encoder["mean"] / encoder["deviation"], -LIMIT, LIMIT)
    return clipped


def signed_log(numbers: Array) -> Array:
    """Return sign(x) * log(1 + |x|)."""
    return np.sign(numbers) * np.log1p(np.abs(numbers))


def with_null_flag(values: Array, is_null: Array) -> Dense:
    """Add the flag of nulls [N] to numbers [N, W - 1]."""
    numbers = np.where(is_null[:, None], 0, values)
    return Dense(np.concatenate([numbers, is_null[:, None]], axis=1).astype(np.float32))


def fit_vectors(place: str, values: Sequence[Any], weight: Array) -> dict[str, Any]:
    """Return the encoder's settings for vectors: `size`, and `scale`, which gives them a mean length of one."""
    for value in values:
        if value is not None and not isinstance(value, LISTS):
            raise UserError(f"{place} has {value!r}; expected lists of numbers")
    sizes = sorted({len(value) for value in values if value is not None})
    if len(sizes) > 1:
        raise UserError(f"{place} has lists of {sizes[0]} and of {sizes[-1]} numbers; expected one length")
    encoder = {"size": sizes[0] if sizes else 0, "scale": 1.0}
    try:
        vectors = vectors_of(encoder, values).values[:, :-1]
    except (TypeError, ValueError):
        raise UserError(f"{place} has lists that hold more than numbers; expected numbers alone") from None
    lengths, count = _distinct(np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1)), weight)
    if lengths.any():
        encoder["scale"] = float(1 / np.average(lengths[lengths > 0], weights=count[lengths > 0]))
    return encoder


def vectors_of(encoder: Mapping[str, Any], values: Sequence[Any]) -> Dense:
    """Return [N, size + 1]; vectors of another size, or with NaN or infinity, are null."""
    rows = [i for i, value in enumerate(values) if isinstance(value, LISTS) and len(value) == encoder["size"]]
    vectors = np.full((len(values), encoder["size"]), np.nan)
    if rows:
        vectors[rows] = np.array([values[i] for i in rows], dtype=np.float64)
    is_null = np.ones(len(values), dtype=bool)
    is_null[rows] = ~np.isfinite(vectors[rows]).all(axis=1)
    return with_null_flag(vectors * encoder["scale"], is_null)
