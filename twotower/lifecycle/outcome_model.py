"""Predict outcomes of a new list's items from those that were shown: the model of the doubly robust estimate.

Shapes: N requests, E shown items of them all, K places of a list, F folds.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PRIOR = 10.0  # shown items of average outcome and weight that are added to those of each place


class Predictions(NamedTuple):
    """Outcomes that a model expects at a place of effect 1."""

    lists: Array  # [N, K] of the new lists' items; 0 behind the last
    shown: Array  # [E] of the shown items that the new list has, at their place there; else 0


def weighted_predictions(
    request: Array, item: Array, value: Array, weight: Array, new_place: Array, lists: Array, fold: Array
) -> Predictions:
    """Predict outcomes by the new list's place and the item, from the requests of other folds.

    The weighted mean outcome of the new list's place, times the item's own outcomes over those expected of its places,
    both of shown items that the new list has, too, and drawn towards the mean where there are few.

    Args:
        request: [E] from 0 to N - 1.
        item: [E] codes.
        value: [E] outcomes, as if at a place of effect 1.
        weight: [E] of each shown item.
        new_place: [E] its place in the new list; -1: it is not there.
        lists: [N, K] codes of the new lists' items; -1 behind the last.
        fold: [N] from 0 to F - 1.
    """
    places, items = lists.shape[1], int(max(lists.max(initial=0), item.max(initial=0))) + 1
    result = Predictions(np.zeros(lists.shape), np.zeros(len(item)))
    prior = value[value > 0].mean() if (value > 0).any() else 0.0
    for number in range(int(fold.max(initial=-1)) + 1):
        mine = fold == number
        others = np.flatnonzero((new_place >= 0) & ~mine[request])
        w, v, place, code = weight[others], value[others], new_place[others], item[others]
        strength = PRIOR * ratio(w.sum(), len(w))
        mean = ratio((w * v).sum(), w.sum())
        base = ratio(np.bincount(place, w * v, places) + strength * mean, np.bincount(place, w, places) + strength)
        factor = ratio(np.bincount(code, v, items) + prior, np.bincount(code, base[place], items) + prior)
        result.lists[mine] = np.where(lists[mine] >= 0, base * factor[lists[mine]], 0.0)
        rows = np.flatnonzero((new_place >= 0) & mine[request])
        result.shown[rows] = base[new_place[rows]] * factor[item[rows]]
    return result


def ratio(numerator: Any, denominator: Any) -> Any:
    """Return numerator / denominator, elementwise; 0 where the denominator is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, 0.0)[()]
