"""How far a mean over queries may be off by chance: bootstrap over sessions.

Queries of one session share their user and their intent, so sessions are drawn, not queries (a cluster bootstrap,
Davison & Hinkley 1997, section 3.8). Each session is drawn a Poisson(1) number of times, independently of all others
(Chamandy et al. 2012), so that any number of sessions takes the same memory; a mean is then a ratio of two sums.

A bootstrap of few sessions is too narrow, so its tails are cut further out (the expanded percentile interval,
Hesterberg 2015, section 4.2), as for the number of equally large sessions that would tell as much (Kish 1965).

Shapes: Q queries, S sessions, M metrics, K groupings with G groups in all, R replicates.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
SESSIONS_AT_ONCE = 1024
LEVEL = 0.95
FEWEST_SESSIONS = 30  # of a group; of fewer no interval is told


Mean = list[float | None]  # a mean, and the ends of its interval; None where there is no number


class Means(NamedTuple):
    """Means of each group, with their intervals; these are no numbers where a group has too few sessions."""

    mean: Array  # [G, M]
    low: Array  # [G, M]
    high: Array  # [G, M]
    queries: Array  # [G]
    sessions: Array  # [G]
    drawn: Array  # [R, G, M] the replicates' means
    tail: Array  # [G] the share of them that an interval leaves out at each end; NaN where there is none

    def of(self, group: int, metric: int) -> "Mean":
        """One of them."""
        return [
            None if np.isnan(x[group, metric]) else float(x[group, metric]) for x in (self.mean, self.low, self.high)
        ]

    def difference(self, one: int, other: int, metric: int) -> "Mean":
        """How far the means of two groups with intervals are apart; sessions of both are drawn together."""
        tail = min(self.tail[one], self.tail[other])
        apart = self.drawn[:, one, metric] - self.drawn[:, other, metric]
        return [float(x) for x in (self.mean[one, metric] - self.mean[other, metric], *_ends(apart, tail))]


def means(
    values: Array,
    session: Array,
    groupings: Sequence[Array] = (),
    replicates: int = 1000,
    seed: int = 0,
    weight: Array | None = None,
) -> Means:
    """Means of all queries, then of each group of each grouping, with percentile intervals of LEVEL.

    Two rankers on the same queries are compared by the difference of their values, which is one more metric.

    Args:
        values: [Q, M].
        session: [Q] any numbers.
        groupings: each [Q] codes from 0 up; negative: in no group.
        replicates: R; 0 gives intervals without numbers.
        seed: of the draws; the same sessions are drawn for the same seed.
        weight: [Q] what a query counts, 0: not at all; None: all the same.
    """
    _, number = np.unique(session, return_inverse=True)
    order = np.argsort(number, kind="stable")
    number, values = number[order], values[order].astype(np.float64)
    codes = [np.zeros(len(number), dtype=np.int64), *(np.asarray(group)[order] for group in groupings)]
    sizes = [1, *(int(code.max(initial=-1)) + 1 for code in codes[1:])]
    first = np.cumsum([0, *sizes])
    groups, metrics = int(first[-1]), values.shape[1]
    own = np.ones((len(values), 1)) if weight is None else weight[order, None].astype(np.float64)
    weighted = np.hstack([values * own, own])  # the last column is what all are divided by
    squares = np.zeros(groups)
    total, drawn = np.zeros((groups, metrics + 1)), np.zeros((replicates, groups, metrics + 1))
    sessions = np.zeros(groups, dtype=np.int64)
    queries = np.concatenate([np.bincount(c[c >= 0], minlength=size) for c, size in zip(codes, sizes, strict=True)])
    for begin in range(0, int(number[-1]) + 1 if len(number) else 0, SESSIONS_AT_ONCE):
        rows = slice(*np.searchsorted(number, [begin, begin + SESSIONS_AT_ONCE]))
        held = int(number[rows.stop - 1]) + 1 - begin
        sums = np.zeros((held, groups, metrics + 1))
        for code, offset in zip(codes, first[:-1], strict=True):
            inside = np.flatnonzero(code[rows] >= 0)
            cell = (number[rows][inside] - begin) * groups + offset + code[rows][inside]
            flat = torch.from_numpy(sums.reshape(held * groups, -1))  # in place, and many times as fast as np.add.at
            flat.index_add_(0, torch.from_numpy(cell), torch.from_numpy(weighted[rows][inside]))
        total += sums.sum(0)
        squares += np.square(sums[:, :, -1]).sum(0)
        sessions += (sums[:, :, -1] > 0).sum(0)
        times = np.random.default_rng([seed, begin]).poisson(1.0, (replicates, held)).astype(np.float64)
        drawn += (times @ sums.reshape(held, -1)).reshape(drawn.shape)
    with np.errstate(invalid="ignore"):
        mean = total[:, :-1] / total[:, -1:]
        drawn = drawn[:, :, :-1] / drawn[:, :, -1:]
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    tail = np.full(groups, np.nan)
    for group in np.flatnonzero((sessions >= FEWEST_SESSIONS) & (replicates > 0)):
        tail[group] = _tail(total[group, -1] ** 2 / squares[group])
        low[group], high[group] = _ends(drawn[:, group], tail[group])
    return Means(mean, low, high, queries, sessions, drawn, tail)


def _ends(drawn: Array, tail: float) -> Array:
    """[2, ...] between which all replicates [R, ...] but the tails lie."""
    ends: Array = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return ends


def _tail(sessions: float) -> float:
    """The share of replicates to cut off at each end, so that the interval is as wide as Student's for `sessions`."""
    normal, freedom = NormalDist(), max(sessions - 1, 1.0)
    z = normal.inv_cdf((1 + LEVEL) / 2)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-student * math.sqrt(1 + 1 / freedom))  # student: Abramowitz & Stegun 1964, 26.7.5
