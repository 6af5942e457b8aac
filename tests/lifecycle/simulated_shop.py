"""A shop of known truth: contexts that ask, a ranking for each, and outcomes by item, place and user.

Shapes: X contexts, V items, U users, N requests, k places.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom

from twotower.lifecycle.off_policy import LoggedLists
from twotower.serving.exploration import POOL

Array = Any


class Shop(NamedTuple):
    """Everything that a log would not show."""

    ranking: Array  # [X, V] items by the logging bundle, best first
    novelty: Array  # [V] weights of exploration
    relevance: Array  # [X, V] P(outcome) at the first place, of an average user
    effects: Array  # [k] of the places
    new: Array  # [X, k] lists of the new bundle


def make_shop(contexts: int = 6, items: int = 60, k: int = 5, seed: int = 0) -> Shop:
    """Two bundles of the same quality of noise about what is relevant; the new one's lists are in the log's reach."""
    random = np.random.default_rng(seed)
    relevance = 0.5 * random.beta(0.6, 2.0, (contexts, items))
    old, new = (relevance + 0.1 * random.normal(size=relevance.shape) for _ in range(2))
    ranking = np.argsort(-old, axis=1)
    out_of_reach = ranking[:, POOL * k :]
    np.put_along_axis(new, out_of_reach, -np.inf, axis=1)
    novelty = 1 / np.sqrt(1 + random.integers(0, 30, items))
    return Shop(ranking, novelty, relevance, 1 / (1 + 0.25 * np.arange(k)), np.argsort(-new, axis=1)[:, :k])


def value_of(shop: Shop, lists: Array) -> float:
    """The exact expected outcomes of a request, by enumeration, for lists [X, k]."""
    return float((np.take_along_axis(shop.relevance, lists, axis=1) * shop.effects).sum(axis=1).mean())


def log_of(shop: Shop, users: int, requests: int, exploration: float, random: np.random.Generator) -> Any:
    """Draw a log; return it with the context [N] of each request. Exploration is written anew, for all at once."""
    k = len(shop.effects)
    user, context = random.integers(0, users, requests), random.integers(0, len(shop.ranking), requests)
    depth, column = np.arange(POOL - 1)[:, None], np.arange(k)
    member = k + depth * k + (column - depth) % k
    weight = shop.novelty[shop.ranking][:, member]  # [X, POOL - 1, k]
    drawn = (random.exponential(size=(requests, POOL - 1, k)) / weight[context]).argmin(axis=1)  # [N, k]
    stratum = random.permuted(np.tile(column, (requests, 1)), axis=1)
    explored = random.random((requests, k)) < exploration
    row = np.arange(requests)[:, None]
    at = drawn[row, stratum]
    rank = np.where(explored, member[at, stratum], np.cumsum(~explored, axis=1) - 1)
    share = weight[context[:, None], at, stratum] / weight.sum(axis=1)[context[:, None], stratum]
    plain = binom.cdf(k - 1 - np.arange(k), k, exploration)
    propensity = np.where(explored, exploration * share, plain[np.minimum(rank, k - 1)])
    item = np.take_along_axis(shop.ranking[context], rank, axis=1)
    eager = random.gamma(4, 1 / 4, users)[user, None]  # some users click more than others, all of them in proportion
    chance = np.minimum(shop.relevance[context[:, None], item] * shop.effects * eager, 1)
    outcome = (random.random((requests, k)) < chance).astype(np.float64)
    request, place = (x.ravel() for x in np.broadcast_arrays(row, column))
    flat = (x.ravel() for x in (rank, propensity, item, outcome))
    return LoggedLists(user, request, place, *flat), context
