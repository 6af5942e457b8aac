"""Values of any type as numbers: buckets, standardised numbers, vectors. Shapes: N values, W numbers a value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.features.categories import LISTS

Array = npt.NDArray[Any]
LIMIT = 10.0


class Dense(NamedTuple):
    """Numbers for each value; the last one is 1 where the value is null, and the others are 0 then."""

    values: npt.NDArray[np.float32]  # [N, W]


def numbers_of(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """[N]; NaN for null, for what is no number, and for what is not finite."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(values),):
        numbers = np.array([_number(value) for value in values], dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def quantile_edges(numbers: Array, weight: Array, buckets: int) -> list[float]:
    """Edges of up to `buckets` buckets [edge, next edge) of about equal weight, none of them empty.

    An edge is the value whose smaller ones come nearest to k / buckets of the weight; so values that are alike stay
    together. All but the least value can be edges.
    """
    value, count = _distinct(numbers, weight)
    if len(value) < 2:
        return []
    below = (np.cumsum(count) - count) * buckets  # in whole numbers, so that no rounding decides
    mark = np.arange(1, buckets) * count.sum()
    above = np.searchsorted(below, mark).clip(max=len(value) - 1)
    under = (above - 1).clip(1)
    nearest = np.where(np.abs(mark - below[under]) <= np.abs(below[above] - mark), under, above)
    edges: list[float] = value[np.unique(nearest)].tolist()
    return edges


def moments(numbers: Array, weight: Array, log: bool) -> dict[str, Any]:
    """Mean and standard deviation (1 where all values are alike), after the logarithm if asked for."""
    value, count = _distinct(signed_log(numbers) if log else numbers, weight)
    mean, deviation = 0.0, 1.0
    if len(value):
        scale = float(np.abs(value).max()) or 1.0  # squares of large numbers would overflow
        mean = float(np.average(value / scale, weights=count))
        deviation = scale * float(np.sqrt(np.average((value / scale - mean) ** 2, weights=count))) or 1.0
        mean *= scale
    return {"log": log, "mean": mean, "deviation": deviation}


def _distinct(numbers: Array, weight: Array) -> tuple[Array, Array]:
    """The different numbers, ascending, and the weight of each; so that no sum depends on the order of values."""
    some = ~np.isnan(numbers) & (weight > 0)
    value, inverse = np.unique(numbers[some], return_inverse=True)
    return value, np.bincount(inverse, weights=weight[some], minlength=len(value)).astype(np.int64)


def standard(numbers: Array, encoder: Mapping[str, Any]) -> Array:
    """[N] in deviations from the mean, LIMIT at most in either direction: an outlier must not drown all else."""
    level = (signed_log(numbers) if encoder["log"] else numbers) / encoder["deviation"]
    clipped: Array = np.clip(level - encoder["mean"] / encoder["deviation"], -LIMIT, LIMIT)
    return clipped


def signed_log(numbers: Array) -> Array:
    """The logarithm of 1 + x; of a negative number, minus that of its opposite."""
    return np.sign(numbers) * np.log1p(np.abs(numbers))


def with_null_flag(values: Array, is_null: Array) -> Dense:
    """[N, W - 1] numbers and [N] nulls -> [N, W]."""
    numbers = np.where(is_null[:, None], 0, values)
    return Dense(np.concatenate([numbers, is_null[:, None]], axis=1).astype(np.float32))


def vector_facts(place: str, values: Sequence[Any], weight: Array) -> dict[str, Any]:
    """How long vectors are in two senses: numbers in each, and what brings them to a length of about one."""
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
    """[N, size + 1]; a vector of another size, or with a number that is not finite, is null."""
    rows = [i for i, value in enumerate(values) if isinstance(value, LISTS) and len(value) == encoder["size"]]
    vectors = np.full((len(values), encoder["size"]), np.nan)
    if rows:
        vectors[rows] = np.array([values[i] for i in rows], dtype=np.float64)
    is_null = np.ones(len(values), dtype=bool)
    is_null[rows] = ~np.isfinite(vectors[rows]).all(axis=1)
    return with_null_flag(vectors * encoder["scale"], is_null)
