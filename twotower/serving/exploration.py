"""Exploration: let chance fill some places of a list with items from beyond the best, new and rare ones first.

Shapes: V items, m ranked candidates of one query (best first), k results, Q queries.
"""

import math
import operator
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Ints
from twotower.core.errors import UserError

Floats = npt.NDArray[np.float64]
POOL = 10  # candidates from the k-th to this many times k can be explored
SHARES = (0.0, 0.1, 0.2, 0.4)  # of exploration, whose effect is measured at export


def explore(candidates: int, k: int, exploration: float, random: np.random.Generator, weight: Floats) -> Ints:
    """Return places in m ranked candidates that make a list of k, some of them drawn from beyond the best k.

    Each place of the list is explored with probability `exploration`, so exploration * k results are expected that
    the plain list does not have. The other places go to the best candidates in order, the explored ones to draws
    without replacement from ranks k to POOL * k: a candidate with twice the weight is twice as likely to be drawn
    next. Where the pool is too small, the best candidates fill the rest.

    Args:
        candidates: m.
        k: results.
        exploration: from 0, the plain list, to 1, none of it.
        random: the same generator gives the same list.
        weight: [m] above 0: see `novelty`.

    Returns:
        [min(k, m)] distinct places.
    """
    k = min(k, candidates)
    pool = np.arange(k, min(candidates, POOL * k))
    explored = np.flatnonzero(random.random(k) < exploration)[: len(pool)]
    # The smallest of exponential times with these rates come first as draws without replacement do.
    drawn = pool[np.argsort(random.exponential(size=len(pool)) / weight[pool], kind="stable")]
    places = np.empty(k, dtype=np.int64)
    is_plain = np.ones(k, dtype=bool)
    is_plain[explored] = False
    places[explored] = drawn[: len(explored)]
    places[is_plain] = np.arange(k - len(explored))
    return places


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
                rows[explore(len(rows), k, share, np.random.default_rng(seed + query), weight[rows])]
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
