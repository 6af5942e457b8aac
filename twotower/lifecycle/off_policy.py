"""Estimate from a log what another bundle's lists would have earned: IPS, self-normalised IPS, doubly robust.

An item of the new list has a known outcome only where the log's list had it, too, which it had with a probability, its
propensity. Weighting each such outcome by 1 / propensity makes up for those that were not shown:

    IPS     sum of weight * outcome / requests (Horvitz & Thompson 1952): unbiased, with the largest variance
    SNIPS   the weighted mean outcome of a place * places (Hajek 1971; Swaminathan & Joachims 2015): takes items that
            the log could never show for as good as the others
    DR      a model's prediction of all outcomes + the weighted errors of it (Dudik et al. 2011): unbiased whatever the
            model is; the better it is the narrower. The model of a user has not seen that user (cross-fitting).

The assumption: an item's outcome depends on the request, on the item, and by a factor on its place
(lifecycle.place_effects), not on the other items of the list. An outcome at place q counts effect[p] / effect[q] times
for an item that the new list has at place p. Weights above `clip` are cut to it, which biases the estimate downwards.

Intervals: a jackknife over groups of users (Efron & Tibshirani 1993, section 11.5), of the whole estimate but the model
of DR, place effects included; a user's requests stay together. Memory: GROUPS * K * K numbers.
Shapes: N requests, E shown items of them all, K places of the longest list, V items, G groups, F folds.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from twotower.core.errors import UserError
from twotower.lifecycle.outcome_model import ratio, weighted_predictions
from twotower.lifecycle.place_effects import place_effects

Array = npt.NDArray[Any]
METHODS = ("IPS", "SNIPS", "DR")
CLIP = 1000.0
LEVEL = 0.95
GROUPS, FOLDS, FEWEST_USERS = 100, 5, 30


class LoggedLists(NamedTuple):
    """What was shown, with its outcomes. Rows of shown items are in the order of the requests."""

    user: Array  # [N] any integers
    request: Array  # [E] from 0 to N - 1
    place: Array  # [E] from 0
    rank: Array  # [E] place without exploration
    propensity: Array  # [E]
    item: Array  # [E] codes from 0 to V - 1
    outcome: Array  # [E] 0: none


class Estimate(NamedTuple):
    """A value per request, with an interval of LEVEL."""

    value: float
    low: float
    high: float


class OffPolicy(NamedTuple):
    """What the log says about new lists; `plain` is the logging bundle's own best list."""

    requests: int
    users: int
    shown: Estimate  # what the log's lists earned, exploration included
    plain: Estimate  # without exploration, by SNIPS
    new: dict[str, Estimate]  # METHODS -> the new lists
    new_minus_plain: dict[str, Estimate]
    support: Estimate  # share of the new lists' places whose item the log could show
    matched: int  # shown items that the new list has, too
    effective: float  # as many of equal weight have the same variance (Kish 1965)
    clipped: float  # share of the matched whose weight was cut
    effects: Array  # [K] of the places, relative to the first


def estimate(log: LoggedLists, lists: Array, clip: float = CLIP) -> OffPolicy:
    """Estimate the value per request of new lists.

    Args:
        log: of the requests.
        lists: [N, K] codes of the new lists' items, best first; -1 behind the last, and V or more for items that the
            log never shows.
        clip: the largest weight.

    Raises:
        UserError: too few users for an interval, or a log without exploration.
    """
    users, user = np.unique(log.user, return_inverse=True)
    if len(users) < FEWEST_USERS:
        raise UserError(f"the log has {len(users)} users with a complete outcome; at least {FEWEST_USERS} are needed")
    if not (log.propensity < 1).any():
        raise UserError(
            "the log has no exploration: of a new list it only knows the items that were shown anyway. "
            "Log lists of recommend(..., exploration=0.1)"
        )
    requests, places = len(log.user), max(int(log.place.max()) + 1, lists.shape[1])
    groups = min(GROUPS, len(users))
    group = (np.random.default_rng(0).permutation(len(users)) % groups)[user]  # [N]
    new_place = places_in(lists, log.request, log.item)
    plain_place = np.where(log.rank < np.bincount(log.request, minlength=requests)[log.request], log.rank, -1)
    weight = np.minimum(1 / log.propensity, clip)
    of = _Tables(group, groups, places, log)
    effects = place_effects(*(_without_one(table) for table in of.sources(plain_place)))  # [G + 1, K]
    n = _without_one(np.bincount(group, minlength=groups))
    new_sums = _WeightedSums(of, weight, new_place, lists >= 0)
    length = np.bincount(log.request, minlength=requests)
    plain_sums = _WeightedSums(of, weight, plain_place, np.arange(places) < length[:, None])
    value = log.outcome / effects[-1, log.place]
    predicted = weighted_predictions(log.request, log.item, value, weight, new_place, lists, group % FOLDS)
    correction = of.by_place(lists >= 0, predicted.lists) - of.weighted(new_place, weight * predicted.shown)
    ips, snips = new_sums.ips(effects) / n, new_sums.snips(effects) / n
    dr = ips + (_without_one(correction) * effects).sum(axis=-1) / n
    plain = plain_sums.snips(effects) / n
    values = dict(zip(METHODS, (ips, snips, dr), strict=True))
    matched = new_place >= 0
    unclipped = of.weighted(new_place, 1 / log.propensity).sum(axis=-1), new_sums.listed.sum(axis=-1)
    total = _without_one(np.bincount(group[log.request], log.outcome, groups))
    return OffPolicy(
        requests=requests,
        users=len(users),
        shown=jackknife(total / n),
        plain=jackknife(plain),
        new={name: jackknife(value) for name, value in values.items()},
        new_minus_plain={name: jackknife(value - plain) for name, value in values.items()},
        support=jackknife(ratio(*map(_without_one, unclipped))),
        matched=int(matched.sum()),
        effective=float(ratio(weight[matched].sum() ** 2, np.square(weight[matched]).sum())),
        clipped=float((1 / log.propensity[matched] > clip).mean()) if matched.any() else 0.0,
        effects=effects[-1] / effects[-1, 0],
    )


def jackknife(values: Array) -> Estimate:
    """Return the estimate with its interval from [G + 1] values: without each group of users, and of all.

    >>> values = np.array([0.0, 1.0, 2.0, 6.0])  # of a mean, the groups are single users
    >>> jackknife(np.append((values.sum() - values) / 3, values.mean())).value
    2.25
    """
    without, groups = values[:-1], len(values) - 1
    variance = (groups - 1) / groups * np.square(without - without.mean()).sum()
    half = float(student.ppf((1 + LEVEL) / 2, groups - 1) * np.sqrt(variance))
    return Estimate(float(values[-1]), float(values[-1]) - half, float(values[-1]) + half)


def places_in(lists: Array, request: Array, item: Array) -> Array:
    """Return [E] the place in `lists` [N, K] of each request's shown item; -1 where the list does not have it."""
    width = int(max(lists.max(initial=0), item.max(initial=0))) + 1
    rows, columns = np.nonzero(lists >= 0)
    key = rows * width + lists[rows, columns]
    order = np.argsort(key, kind="stable")
    wanted = request * width + item
    at = np.minimum(np.searchsorted(key[order], wanted), max(len(key) - 1, 0))
    return np.where(key[order][at] == wanted, columns[order][at], -1) if len(key) else np.full(len(item), -1)


class _Tables:
    """Sums by group of users."""

    def __init__(self, group: Array, groups: int, places: int, log: LoggedLists) -> None:
        self.group, self.groups, self.places, self.log = group, groups, places, log
        self.shown_group = group[log.request]

    def sources(self, plain_place: Array) -> tuple[Array, Array]:
        """Shown items and those with an outcome, each [G, K + 1, K]: the source, drawn being the last, and place."""
        source = np.where(plain_place < 0, self.places, plain_place)
        cell = (self.shown_group * (self.places + 1) + source) * self.places + self.log.place
        size = self.groups * (self.places + 1) * self.places
        has_outcome = (self.log.outcome != 0).astype(np.float64)
        shape = (self.groups, self.places + 1, self.places)
        return np.bincount(cell, minlength=size).reshape(shape), np.bincount(cell, has_outcome, size).reshape(shape)

    def by_place(self, listed: Array, values: Array | None = None) -> Array:
        """[G, K] sums over the places of lists [N, K]."""
        result = np.zeros((self.groups, self.places))
        np.add.at(result[:, : listed.shape[1]], self.group, listed if values is None else values * listed)
        return result

    def weighted(self, place: Array, weight: Array) -> Array:
        """[G, K] sums of weights of the shown items that have a place."""
        has = place >= 0
        cell = self.shown_group[has] * self.places + place[has]
        size = self.groups * self.places
        return np.bincount(cell, weight[has], size).reshape(self.groups, self.places)


class _WeightedSums:
    """Sums for IPS and SNIPS of one set of lists, without each group and of all."""

    def __init__(self, of: _Tables, weight: Array, place: Array, listed: Array) -> None:
        has, k = place >= 0, of.places
        cell = (of.shown_group[has] * k + of.log.place[has]) * k + place[has]
        outcome = np.bincount(cell, weight[has] * of.log.outcome[has], of.groups * k * k).reshape(of.groups, k, k)
        self.outcome = _without_one(outcome)  # [G + 1, K shown at, K place in the list]
        self.weight = _without_one(of.weighted(place, weight))  # [G + 1, K]
        self.listed = of.by_place(listed)  # [G, K]

    def ips(self, effects: Array) -> Array:
        """[G + 1] weighted outcomes, of all requests together."""
        weighted: Array = np.einsum("gqp,gp,gq->g", self.outcome, effects, 1 / effects)
        return weighted

    def snips(self, effects: Array) -> Array:
        """[G + 1] the same, of lists that all have their weight."""
        wanted = (_without_one(self.listed) * effects).sum(axis=-1)
        weighted: Array = ratio(self.ips(effects) * wanted, (self.weight * effects).sum(axis=-1))
        return weighted


def _without_one(table: Array) -> Array:
    """Return [G + 1, ...] the sums over [G, ...] without each, and of all."""
    total = table.sum(axis=0, keepdims=True)
    result: Array = np.concatenate([total - table, total])
    return result
