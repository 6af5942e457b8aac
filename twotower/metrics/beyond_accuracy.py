"""Metrics of recommended lists beside accuracy: coverage, concentration, novelty, popularity, diversity, serendipity.

Where fewer than K items are ranked for a query, PAD fills the end of its list, which then counts for nothing.
Shapes: Q queries, L history length, K items of a list, V items, D embedding dim.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.schema import PAD

Array = npt.NDArray[Any]
QUERIES_AT_ONCE = 4096


def exposures(top: Array, num_items: int) -> Array:
    """[V] number of lists [Q, K] that contain each item."""
    return np.bincount(top.ravel(), minlength=num_items + 1)[1:]


def coverage(exposed: Array) -> float:
    """Share of the catalogue that is in at least one list (Ge et al. 2010)."""
    return float((exposed > 0).mean())


def gini(exposed: Array) -> float:
    """Gini coefficient of exposures: 0 if all are equal, (V - 1) / V if one item has all (Shani & Gunawardana 2011)."""
    ordered = np.sort(exposed).astype(np.float64)
    rank = np.arange(1, len(ordered) + 1)
    total = ordered.sum()
    return float(((2 * rank - len(ordered) - 1) * ordered).sum() / (len(ordered) * total)) if total else 0.0


def novelty(top: Array, counts: Array) -> Array:
    """[Q] mean self-information of a list's items in bits: -log2 of an item's share of events (Zhou et al. 2010).

    Args:
        top: [Q, K].
        counts: [V + 1] training events by item_index; each is counted one higher, so that unseen items are finite.
    """
    seen = counts[1:] + 1.0
    bits = np.concatenate([[0.0], -np.log2(seen / seen.sum())])
    return _mean_of_list(bits[top], top)


def popularity(top: Array, counts: Array) -> Array:
    """[Q] mean number of training events of a list's items."""
    return _mean_of_list(counts[top], top)


def history_popularity(history: Array, counts: Array) -> Array:
    """[Q] mean number of training events of the items of a history [Q, L], without PAD.

    The relative difference between the means of `popularity` and this is ΔGAP (Abdollahpouri et al. 2019,
    arXiv:1907.13286).
    """
    return _mean_of_list(counts[history], history)


def vector_diversity(top: Array, items: Array) -> Array:
    """[Q] intra-list diversity: mean of 1 - cosine over the pairs of a list (Ziegler et al. 2005).

    Args:
        top: [Q, K].
        items: [V, D].
    """
    result = np.zeros(len(top))
    for begin in range(0, len(top), QUERIES_AT_ONCE):
        part = slice(begin, begin + QUERIES_AT_ONCE)
        size = (top[part] != PAD).sum(1)
        listed = items[top[part] - 1]  # a copy of these vectors, never of all items
        listed[top[part] == PAD] = 0
        length = np.linalg.norm(listed, axis=2, keepdims=True)
        listed /= np.where(length == 0, 1, length)
        same_item = np.square(listed).sum((1, 2))
        all_pairs = np.square(listed.sum(1, dtype=np.float64)).sum(1)  # sum of all cosines, an item with itself too
        pairs = size * (size - 1)
        result[part] = np.where(pairs > 0, 1 - (all_pairs - same_item) / np.maximum(1, pairs), 0)
    return result


def category_diversity(top: Array, category: Array) -> Array:
    """[Q] share of a list's pairs whose categories differ.

    Args:
        top: [Q, K].
        category: [V + 1] code of each item_index.
    """
    size = (top != PAD).sum(1)
    listed = np.sort(np.where(top == PAD, -2 - np.arange(top.shape[1]), category[top]), axis=1)  # no two PAD are alike
    same = np.zeros(len(top))
    run = np.zeros(len(top))  # number of earlier places with the category of this place
    for k in range(1, top.shape[1]):
        run = np.where(listed[:, k] == listed[:, k - 1], run + 1, 0)
        same += run
    pairs = size * (size - 1) / 2
    mean: Array = np.where(pairs > 0, 1 - same / np.maximum(1, pairs), 0)
    return mean


def _mean_of_list(values: Array, items: Array) -> Array:
    """[Q] mean of values [Q, K] without those of PAD among items [Q, K]; 0 where there is no other."""
    is_item = items != PAD
    mean: Array = np.where(is_item, values, 0).sum(1) / np.maximum(1, is_item.sum(1))
    return mean


def serendipity(recall: Array, target: Array, history: Array, popular: Array) -> Array:
    """[Q] recall of unexpected targets: neither among the most popular items nor in the history (Ge et al. 2010).

    Args:
        recall: [Q] recall of each query.
        target: [Q] item_index.
        history: [Q, L].
        popular: [K] the most popular items.
    """
    expected = np.isin(target, popular) | (history == target[:, None]).any(1)
    return np.where(expected, 0.0, recall)
