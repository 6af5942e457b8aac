"""Means over queries with confidence intervals, by a bootstrap over sessions.

Queries of one session share their user and their intent, so sessions are drawn, not queries (a cluster bootstrap,
Davison & Hinkley 1997, section 3.8). Each session is drawn a Poisson(1) number of times, independently of all others
(Chamandy et al. 2012), so memory does not grow with the sessions; a mean is then a ratio of two sums.

A bootstrap of few sessions is too narrow, so its tails are cut further out (the expanded percentile interval,
Hesterberg 2015, section 4.2), as for the number of equally large sessions with the same information (Kish 1965).

Shapes: Q queries, s sessions of a block, M metrics, G groups of all groupings, R replicates.
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
FEWEST_SESSIONS = 30  # a group of fewer sessions has no interval

Mean = list[float | None]  # [mean, low, high]; None where there is no number


class BootstrapMeans(NamedTuple):
    """Mean of each metric in each group, with intervals; low and high are NaN where a group has too few sessions."""

    mean: Array  # [G, M]
    low: Array  # [G, M]
    high: Array  # [G, M]
    queries: Array  # [G]
    sessions: Array  # [G]
    drawn: Array  # [R, G, M] the replicates' means
    tail: Array  # [G] the share of replicates outside the interval at each end; NaN without an interval

    def of(self, group: int, metric: int) -> Mean:
        """Return one mean with its interval, ready for JSON."""
        values = (x[group, metric] for x in (self.mean, self.low, self.high))
        return [None if np.isnan(value) else float(value) for value in values]

    def difference(self, one: int, other: int, metric: int) -> Mean:
        """Return the difference of two groups' means; both need an interval, and their sessions are drawn together."""
        tail = min(self.tail[one], self.tail[other])
        drawn = self.drawn[:, one, metric] - self.drawn[:, other, metric]
        return [float(x) for x in (self.mean[one, metric] - self.mean[other, metric], *_ends(drawn, tail))]


def bootstrap_means(
    values: Array,
    session: Array,
    groupings: Sequence[Array] = (),
    replicates: int = 1000,
    seed: int = 0,
    weight: Array | None = None,
) -> BootstrapMeans:
    """Return the means of all queries, then of each group of each grouping, with percentile intervals of LEVEL.

    Two rankers on the same queries are compared by the difference of their values, which is one more metric.

    >>> means = bootstrap_means(np.tile([[0.0], [1.0]], (50, 1)), session=np.arange(100), replicates=200)
    >>> mean, low, high = means.of(0, 0)
    >>> mean, 0.3 < low < high < 0.7
    (0.5, True)

    Args:
        values: [Q, M].
        session: [Q] any integers.
        groupings: each [Q] codes from 0 up; a negative code: in no group.
        replicates: R; with 0 all intervals are NaN.
        seed: of the draws; the same sessions are drawn for the same seed.
        weight: [Q] weights of the queries, 0 or more; None: all the same.
    """
    _, number = np.unique(session, return_inverse=True)
    order = np.argsort(number, kind="stable")
    number, values = number[order], values[order].astype(np.float64)
    codes = [np.zeros(len(number), dtype=np.int64), *(np.asarray(group)[order] for group in groupings)]
    sizes = [1, *(int(code.max(initial=-1)) + 1 for code in codes[1:])]
    first = np.cumsum([0, *sizes])
    groups = int(first[-1])
    weights = np.ones((len(values), 1)) if weight is None else weight[order, None].astype(np.float64)
    weighted = np.hstack([values * weights, weights])  # the last column is the denominator of all others
    total, drawn = np.zeros((groups, weighted.shape[1])), np.zeros((replicates, groups, weighted.shape[1]))
    squares, sessions = np.zeros(groups), np.zeros(groups, dtype=np.int64)
    for begin in range(0, int(number[-1]) + 1 if len(number) else 0, SESSIONS_AT_ONCE):
        rows = slice(*np.searchsorted(number, [begin, begin + SESSIONS_AT_ONCE]))
        cells = [np.where(c[rows] >= 0, at + c[rows], -1) for c, at in zip(codes, first[:-1], strict=True)]
        sums = _session_sums(weighted[rows], number[rows] - begin, cells, groups)
        total += sums.sum(0)
        squares += np.square(sums[:, :, -1]).sum(0)
        sessions += (sums[:, :, -1] > 0).sum(0)
        times = np.random.default_rng([seed, begin]).poisson(1.0, (replicates, len(sums))).astype(np.float64)
        drawn += (times @ sums.reshape(len(sums), -1)).reshape(drawn.shape)
    with np.errstate(invalid="ignore"):
        mean, drawn = total[:, :-1] / total[:, -1:], drawn[:, :, :-1] / drawn[:, :, -1:]
    low, high, tail = np.full_like(mean, np.nan), np.full_like(mean, np.nan), np.full(groups, np.nan)
    for group in np.flatnonzero((sessions >= FEWEST_SESSIONS) & (replicates > 0)):
        tail[group] = _tail(total[group, -1] ** 2 / squares[group])
        low[group], high[group] = _ends(drawn[:, group], tail[group])
    queries = np.concatenate([np.bincount(c[c >= 0], minlength=size) for c, size in zip(codes, sizes, strict=True)])
    return BootstrapMeans(mean, low, high, queries, sessions, drawn, tail)


def _session_sums(weighted: Array, session: Array, cells: Sequence[Array], groups: int) -> Array:
    """Return [s, G, M + 1] sums of `weighted` by session [Q], from 0 up, and by the groups [Q] of each grouping."""
    sums = np.zeros(((int(session[-1]) + 1) * groups, weighted.shape[1]))
    flat = torch.from_numpy(sums)  # adds in place, and many times as fast as np.add.at
    for group in cells:
        inside = np.flatnonzero(group >= 0)
        cell = session[inside] * groups + group[inside]
        flat.index_add_(0, torch.from_numpy(cell), torch.from_numpy(weighted[inside]))
    return sums.reshape(-1, groups, weighted.shape[1])


def _ends(drawn: Array, tail: float) -> Array:
    """Return [2, ...] the bounds of replicates [R, ...] without the tails."""
    ends: Array = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return ends


def _tail(sessions: float) -> float:
    """Return the share of replicates to cut off at each end for an interval as wide as Student's for `sessions`."""
    normal, freedom = NormalDist(), max(sessions - 1, 1.0)
    z = normal.inv_cdf((1 + LEVEL) / 2)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-student * math.sqrt(1 + 1 / freedom))  # student: Abramowitz & Stegun 1964, 26.7.5
