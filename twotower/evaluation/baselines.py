"""Rankers without training that a model must beat to be worth deploying.

Each learns from the same events as the model and scores the same histories. Shapes: E events that may be learnt
from, S sessions, Q queries, L history length, V items, N neighbours.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from twotower.batch import SessionBatch
from twotower.evaluation.metrics import RankingMetrics
from twotower.evaluation.ranks import chunks, histories_of, queries_of, rank

Array = npt.NDArray[Any]


class Baseline(Protocol):
    """[Q, L] histories, PAD on the right -> [Q, V] scores; column c belongs to item_index c + 1."""

    def __call__(self, history: Tensor) -> Tensor: ...


class Popularity:
    """Items by how many training events they have."""

    def __init__(self, counts: Array) -> None:
        self.counts = torch.from_numpy(counts[1:].astype(np.float32))

    def __call__(self, history: Tensor) -> Tensor:
        """The same order for every history."""
        return self.counts.expand(len(history), -1)


class SessionRepeat:
    """The session's own items, the most recent first, then the popular ones."""

    def __init__(self, counts: Array) -> None:
        self.rest = torch.from_numpy(counts / (counts.max() + 1)).float()  # below 1, the least a seen item gets

    def __call__(self, history: Tensor) -> Tensor:
        """An item's score is the position of its last occurrence."""
        scores = self.rest.repeat(len(history), 1)
        recency = torch.arange(1, history.shape[1] + 1, dtype=scores.dtype).expand(history.shape)
        return scores.scatter_reduce(1, history, recency, "amax")[:, 1:]


class ItemKNN:
    """Items that occur in the same sessions as the history's items: cosine, summed over the history.

    Co-occurrence counts sessions in which both items occur (Sarwar et al. 2001; for sessions Hidasi et al. 2016).
    An item is its own best neighbour, with cosine 1: shops see repeats, and without them this is no rival.

    Args:
        item_index: [E].
        session: [E] ascending.
        num_items: V.
        neighbours: how many of each item's best neighbours are kept.
        window: pairs more than so many distinct items apart in their session are not counted.
    """

    def __init__(
        self, item_index: Array, session: Array, num_items: int, neighbours: int = 100, window: int = 50
    ) -> None:
        width = num_items + 1
        _, first = np.unique(session * np.int64(width) + item_index, return_index=True)
        first.sort()  # each session's distinct items, in the order of their first event
        session, item = session[first], item_index[first].astype(np.int64)
        count = np.bincount(item, minlength=width)
        pairs = np.empty(0, dtype=np.int64)
        times = np.empty(0, dtype=np.int64)
        for distance in range(1, window + 1):
            same = np.flatnonzero(session[distance:] == session[:-distance])
            if len(same) == 0:
                break
            one, other = item[same], item[same + distance]
            key = np.minimum(one, other) * width + np.maximum(one, other)
            found, number = np.unique(key, return_counts=True)
            pairs, inverse = np.unique(np.concatenate([pairs, found]), return_inverse=True)
            times = np.bincount(inverse, weights=np.concatenate([times, number]))
        own = np.flatnonzero(count)
        left = np.concatenate([pairs // width, pairs % width, own])
        right = np.concatenate([pairs % width, pairs // width, own])
        weight = np.concatenate([times, times, count[own]]) / np.sqrt(count[left] * count[right])
        order = np.lexsort((right, -weight, left))
        left, right, weight = left[order], right[order], weight[order]
        place = np.arange(len(left)) - np.searchsorted(left, left)
        kept = place < neighbours
        self.neighbour = torch.zeros(width, neighbours, dtype=torch.long)
        self.weight = torch.zeros(width, neighbours)
        self.neighbour[left[kept], place[kept]] = torch.from_numpy(right[kept])
        self.weight[left[kept], place[kept]] = torch.from_numpy(weight[kept]).float()

    def __call__(self, history: Tensor) -> Tensor:
        """The sum of the neighbours' weights."""
        scores = torch.zeros(len(history), len(self.neighbour))
        scores.scatter_add_(1, self.neighbour[history].flatten(1), self.weight[history].flatten(1))
        return scores[:, 1:]


def fit_baselines(
    item_index: Array, timestamp: Array, offsets: Array, fit_end: Array, num_items: int, recent_fraction: float
) -> dict[str, Baseline]:
    """All baselines, from the events offsets[s]:fit_end[s] of each session.

    Args:
        item_index: [all events].
        timestamp: [all events].
        offsets: [S + 1].
        fit_end: [S].
        num_items: V.
        recent_fraction: the latest share of the events that `recent_popularity` counts.
    """
    session = np.repeat(np.arange(len(fit_end)), np.diff(offsets))
    learn = np.arange(len(item_index)) < fit_end[session]
    item_index, session, timestamp = np.asarray(item_index[learn]), session[learn], timestamp[learn]
    recent = timestamp >= np.quantile(timestamp, 1 - recent_fraction)
    counts = np.bincount(item_index, minlength=num_items + 1)
    recent_counts = np.bincount(item_index[recent], minlength=num_items + 1)
    return {
        "popularity": Popularity(counts),
        "recent_popularity": Popularity(recent_counts),
        "session_repeat": SessionRepeat(counts),
        "item_knn": ItemKNN(item_index, session, num_items),
    }


def evaluate_baselines(
    baselines: dict[str, Baseline],
    batches: Iterable[SessionBatch],
    num_items: int,
    ks: Sequence[int],
    event_types: Sequence[str],
) -> dict[str, float]:
    """`item_knn/recall_at_20` and so on, over the queries of all batches."""
    metrics = {name: RankingMetrics(ks, event_types) for name in baselines}
    for batch in tqdm(batches, "baselines", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history = histories_of(batch, queries)
        for chunk in chunks(len(history), num_items):
            for name, baseline in baselines.items():
                ranks = rank(baseline(history[chunk]), queries.target[chunk])
                metrics[name].update(ranks, queries.target_type[chunk])
    return {f"{name}/{key}": value for name, metric in metrics.items() for key, value in metric.compute().items()}
