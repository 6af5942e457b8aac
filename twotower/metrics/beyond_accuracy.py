"""Metrics of recommended lists beside accuracy: coverage, concentration, novelty, popularity, diversity, serendipity.

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
    mean: Array = bits[top].mean(1)
    return mean


def popularity(top: Array, counts: Array) -> Array:
    """[Q] mean number of training events of a list's items."""
    mean: Array = counts[top].mean(1)
    return mean


def history_popularity(history: Array, counts: Array) -> Array:
    """[Q] mean number of training events of the items of a history [Q, L], without PAD.

    The relative difference between the means of `popularity` and this is ΔGAP (Abdollahpouri et al. 2019,
    arXiv:1907.13286).
    """
    seen = history != PAD
    mean: Array = np.where(seen, counts[history], 0).sum(1) / np.maximum(1, seen.sum(1))
    return mean


def vector_diversity(top: Array, items: Array) -> Array:
    """[Q] intra-list diversity: mean of 1 - cosine over the pairs of a list (Ziegler et al. 2005).

    Args:
        top: [Q, K].
        items: [V, D].
    """
    size = top.shape[1]
    result = np.zeros(len(top))
    if size < 2:
        return result
    for begin in range(0, len(top), QUERIES_AT_ONCE):
        part = slice(begin, begin + QUERIES_AT_ONCE)
        listed = items[top[part] - 1]  # a copy of these vectors, never of all items
        length = np.linalg.norm(listed, axis=2, keepdims=True)
        listed /= np.where(length == 0, 1, length)
        same_item = np.square(listed).sum((1, 2))
        all_pairs = np.square(listed.sum(1, dtype=np.float64)).sum(1)  # sum of all cosines, an item with itself too
        result[part] = 1 - (all_pairs - same_item) / (size * (size - 1))
    return result


def category_diversity(top: Array, category: Array) -> Array:
    """[Q] share of a list's pairs whose categories differ.

    Args:
        top: [Q, K].
        category: [V + 1] code of each item_index.
    """
    size = top.shape[1]
    listed = np.sort(category[top], axis=1)
    if size < 2:
        return np.zeros(len(top))
    same = np.zeros(len(top))
    run = np.zeros(len(top))  # number of earlier places with the category of this place
    for k in range(1, size):
        run = np.where(listed[:, k] == listed[:, k - 1], run + 1, 0)
        same += run
    mean: Array = 1 - same / (size * (size - 1) / 2)
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
