"""How far two distributions are apart, and how far chance alone would bring samples of their sizes.

The measure is the Jensen-Shannon distance to base 2 (Lin 1991): 0 for equal distributions, 1 for disjoint ones, finite
where a value occurs on one side alone. Small shifts of it follow the population stability index, PSI = 8 ln 2 d^2, so
the limits that are customary for PSI, .1 and .25, are .13 and .21 here. Shapes: B bins.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon

from twotower.core.arrays import Array

NOTICED, LIMIT = 0.13, 0.21  # of a distance
DRAWS, LEVEL = 200, 0.99  # samples of one distribution that tell what chance does, and the quantile of them
AS_BEFORE, SHIFTED, FAR, INFORMS = "as before", "shifted", "beyond the limit", ""


class Row(NamedTuple):
    """One thing that was compared.

    >>> Row("event types", 0.05, chance=0.01, limit=LIMIT).verdict
    'as before'
    """

    name: str
    value: float  # a distance, or a share
    chance: float | None = None  # what equal distributions stay below, 99 times of 100
    limit: float | None = None  # None: the row informs only
    note: str = ""

    @property
    def verdict(self) -> str:
        """What the value means."""
        if self.limit is None:
            return INFORMS
        if self.value <= max(self.chance or 0.0, self.limit * NOTICED / LIMIT):
            return AS_BEFORE
        return FAR if self.value > self.limit else SHIFTED


def compare(
    name: str, before: Mapping[str, float], after: Mapping[str, float], cluster: float, limit: float | None
) -> Row:
    """Compare the counts of values of two samples.

    Args:
        name: of what has these values.
        before: count by value.
        after: likewise.
        cluster: events that are alike because they are of one session: sum(l^2) / sum(l) of the sessions' lengths.
        limit: of the distance; None: the row informs only.
    """
    names = sorted(before.keys() | after.keys())
    one, other = (np.array([counts.get(value, 0) for value in names], dtype=np.float64) for counts in (before, after))
    if not one.sum() or not other.sum():
        return Row(name, math.nan, note="no events on one side")
    gain = other / other.sum() - one / one.sum()
    most = sorted(range(len(names)), key=lambda place: -abs(gain[place]))[:2]
    note = ", ".join(f"{names[p]} {one[p] / one.sum():.1%} -> {other[p] / other.sum():.1%}" for p in most if gain[p])
    return Row(name, distance(one, other), chance(one, other, cluster), limit, note)


def distance(one: Array, other: Array) -> float:
    """Return the Jensen-Shannon distance of counts [B] and [B].

    >>> distance(np.array([1, 0]), np.array([0, 2])), distance(np.array([1, 3]), np.array([2, 6]))
    (1.0, 0.0)
    """
    return float(np.nan_to_num(jensenshannon(one, other, base=2)))  # rounding makes NaN of equal ones


def chance(one: Array, other: Array, cluster: float, seed: int = 0) -> float:
    """Return what the distance of two samples of one distribution stays below with probability LEVEL.

    The counts of both are divided at random between samples of their sizes. Events of one session are alike: a variance
    is larger by up to the factor `cluster`, and the square of the distance with it (the design effect, Kish 1965).
    """
    pooled = np.round(one + other).astype(np.int64)
    share = one.sum() / (one.sum() + other.sum())
    random = np.random.default_rng(seed)
    drawn = (random.binomial(pooled, share) for _ in range(DRAWS))
    found = [distance(part, pooled - part) for part in drawn if 0 < part.sum() < pooled.sum()]
    return min(1.0, float(np.quantile(found, LEVEL)) * math.sqrt(max(1.0, cluster))) if found else 1.0
