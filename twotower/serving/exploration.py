"""Exploration: let chance fill some places of a list with items from beyond the best, new and rare ones first.

Shapes: V items, m ranked candidates of one query (best first), k results, Q queries.
"""

import math
import operator
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Ints
from twotower.core.errors import UserError

Floats = npt.NDArray[np.float64]
POOL = 10  # candidates from the k-th to this many times k can be explored
SHARES = (0.0, 0.1, 0.2, 0.4)  # of exploration, whose effect is measured at export


class Explored(NamedTuple):
    """A list of results, and the chance that each had to be in it."""

    ranks: Ints  # [k] places in the ranked candidates: below k of the plain list, the others drawn from the pool
    propensities: Floats  # [k] probability that the list of this request has the candidate, at whatever place


def explore(candidates: int, k: int, exploration: float, random: np.random.Generator, weight: Floats) -> Explored:
    """Return places in m ranked candidates that make a list of k, some of them drawn from beyond the best k.

    The pool, ranks k to POOL * k, is cut into k strata of one candidate in k, of all depths alike. Chance gives each
    place of the list a stratum of its own, and each place is explored with probability `exploration`: it then gets one
    candidate of its stratum, one of twice the weight twice as likely. The other places go to the best candidates in
    order. So exploration * k results are expected that the plain list does not have, and the probability of each
    result is exact and in closed form (it is a stratified sample; of draws without replacement from the whole pool it
    would be an integral). Where the pool has fewer than k candidates, so many places at the most are explored.

    Args:
        candidates: m.
        k: results.
        exploration: from 0, the plain list, to 1, none of it.
        random: the same generator gives the same list.
        weight: [m] above 0: see `novelty`.

    Returns:
        min(k, m) distinct places, and the propensity of each.
    """
    k = min(k, candidates)
    in_pool = max(0, min(candidates, POOL * k) - k)
    strata = min(k, in_pool)
    depth = np.arange(POOL - 1)[:, None]
    # A stratum has one candidate of each k, one place further to the left in each next one: a pattern in the ranking,
    # such as every other item being new, is no stratum's.
    member = k + depth * k + (np.arange(k) - depth) % max(k, 1)  # [POOL - 1, k] ranks by stratum
    exists = member < k + in_pool
    chance = np.where(exists, weight[np.minimum(member, candidates - 1)], 0.0)
    stratum = random.permutation(k)
    explored = np.flatnonzero((random.random(k) < exploration) & (stratum < strata))
    stratum = stratum[explored]
    # The smallest of exponential times is that of one rate with a probability in proportion to the rate.
    time = np.divide(random.exponential(size=chance.shape), chance, where=exists, out=np.full(chance.shape, np.inf))
    drawn = time.argmin(axis=0)[stratum]
    ranks, propensities = np.empty(k, dtype=np.int64), np.empty(k)
    ranks[explored] = member[drawn, stratum]
    propensities[explored] = exploration * chance[drawn, stratum] / chance.sum(axis=0)[stratum]
    is_plain = np.ones(k, dtype=bool)
    is_plain[explored] = False
    ranks[is_plain] = np.arange(k - len(explored))
    propensities[is_plain] = _plain_propensities(k, strata, exploration)[: k - len(explored)]
    return Explored(ranks, propensities)


def _plain_propensities(k: int, strata: int, exploration: float) -> Floats:
    """Return [k] the probability that at most k - 1 - i places are explored, so that the i-th best is in the list.

    The number of explored places is binomial: of as many places as there are strata.
    """
    number = np.arange(1, strata + 1)
    log_ways = np.concatenate([[0.0], np.log((strata - number + 1) / number).cumsum()])
    share = min(max(exploration, np.finfo(np.float64).tiny), 1 - np.finfo(np.float64).epsneg)  # has both logarithms
    number = np.arange(strata + 1)
    at_most = np.exp(log_ways + number * math.log(share) + (strata - number) * math.log1p(-share)).cumsum()
    result: Floats = np.minimum(at_most, 1.0)[np.minimum(np.arange(k)[::-1], strata)]
    return result


def novelty(train_count: npt.NDArray[Any], age_days: npt.NDArray[Any]) -> Floats:
    """Return [V] weights for exploration: 1 / sqrt((1 + n) * (1 + a)), n training events and a days since the first.

    An estimate from n events has an error in proportion to 1 / sqrt(n), so the weight follows what there is to learn;
    of two items with equally few events the newer one is favoured. An item with about four times the events, or the
    age, is half as likely. An unknown age (NaN) counts as 0.

    >>> novelty(np.array([0, 3]), np.array([0.0, 0.0]))
    array([1. , 0.5])
    """
    weights: Floats = 1 / np.sqrt((1.0 + train_count) * (1.0 + np.nan_to_num(age_days)))
    return weights


def exploration_effect(
    ranked: Ints, target: Ints, k: int, weight: Floats, seed: int, shares: Sequence[float] = SHARES
) -> list[dict[str, float]]:
    """Measure what exploration costs in recall and gains in coverage.

    Args:
        ranked: [Q, m] rows of the best items, POOL * k of them or all.
        target: [Q] row of the next item; -1 where the catalogue does not have it.
        k: results of each query.
        weight: [V] see `novelty`.
        seed: of query 0; query q has seed + q.
        shares: values of `exploration` to measure.

    Returns:
        For each share `exploration`, `recall` at k of the targets, `coverage` (share of the V items that are in a
        list) and `explored` (results of a query that the plain list does not have).
    """
    effects = []
    for share in shares:
        lists = np.stack(
            [
                rows[explore(len(rows), k, share, np.random.default_rng(seed + query), weight[rows]).ranks]
                for query, rows in enumerate(ranked)
            ]
        )
        is_other = ~(lists[:, :, None] == ranked[:, None, :k]).any(axis=2)
        effects.append(
            {
                "exploration": float(share),
                "recall": float((lists == target[:, None]).any(axis=1).mean()),
                "coverage": len(np.unique(lists)) / len(weight),
                "explored": float(is_other.sum(axis=1).mean()),
            }
        )
    return effects


def check_exploration(exploration: Any, seed: Any) -> tuple[float, int | None]:
    """Return a share from 0 to 1, and a seed or None; raises UserError for anything else."""
    share = float(exploration) if isinstance(exploration, Real) and not isinstance(exploration, bool) else math.nan
    if not 0 <= share <= 1:
        raise UserError(
            f"exploration is {reprlib.repr(exploration)}; expected a number from 0, the plain list, to 1, none of it"
        )
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or (number is not None and not 0 <= number < 2**64):
        raise UserError(f"seed is {reprlib.repr(seed)}; expected an integer from 0 to less than 2**64, or null")
    return share, number
