"""Rankers without training that a model must beat to be worth deploying.

Each learns from the same events as the model and answers the same queries. Shapes: Q queries, L history length,
V items.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from twotower.core.batch import SessionBatch
from twotower.core.inputs import GAP
from twotower.core.schema import Prepared
from twotower.evaluation.baselines.item_neighbours import ItemKNN, SequentialRules
from twotower.evaluation.baselines.session_neighbours import STAN, VSKNN
from twotower.metrics.ranks import chunks, histories_of, queries_of, rank
from twotower.metrics.results import RankingResults, in_order

Array = npt.NDArray[Any]


class Baseline(Protocol):
    """[Q, L] histories, PAD on the right -> [Q, V] scores; column c belongs to item_index c + 1."""

    def __call__(self, history: Tensor) -> Tensor: ...


class Fitted(NamedTuple):
    """A baseline, and how long it took to learn."""

    scorer: Baseline
    seconds: float


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


def fit_baselines(prepared: Prepared, validation_too: bool, recent_fraction: float) -> dict[str, Fitted]:
    """All baselines, from the events that a model may learn from.

    Args:
        prepared: the events.
        validation_too: whether those of the validation may be learnt from.
        recent_fraction: the latest share of the events that `recent_popularity` counts.
    """
    num_items = prepared.num_items
    session = np.repeat(np.arange(len(prepared.offsets) - 1), np.diff(prepared.offsets))
    learnt = prepared.learnt(validation_too)
    item_index, session, timestamp = prepared.item_index[learnt], session[learnt], prepared.timestamp[learnt]

    def counts(since: float) -> Array:
        return np.bincount(item_index[timestamp >= since], minlength=num_items + 1)

    recently = np.quantile(timestamp, 1 - recent_fraction)
    fade_days = 5.0 if GAP in prepared.inputs else None  # without gaps the timestamps tell the order alone
    recipes: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Popularity(counts(-np.inf)),
        "recent_popularity": lambda: Popularity(counts(recently)),
        "session_repeat": lambda: SessionRepeat(counts(-np.inf)),
        "sequential_rules": lambda: SequentialRules(item_index, session, num_items),
        "item_knn": lambda: ItemKNN(item_index, session, num_items),
        "v_sknn": lambda: VSKNN(item_index, session, timestamp, num_items),
        "stan": lambda: STAN(item_index, session, timestamp, num_items, fade_days=fade_days),
    }
    fitted = {}
    for name, fit in tqdm(recipes.items(), "fitting baselines", leave=False, disable=None):
        begin = time.perf_counter()
        fitted[name] = Fitted(fit(), time.perf_counter() - begin)
    return fitted


def answer_queries(
    baselines: Mapping[str, Fitted], batches: Iterable[SessionBatch], num_items: int
) -> tuple[dict[str, RankingResults], dict[str, float]]:
    """Each baseline's answers to the queries of all batches, and what it cost: `item_knn/queries_per_second`."""
    answers: dict[str, list[RankingResults]] = {name: [] for name in baselines}
    seconds = dict.fromkeys(baselines, 0.0)
    for batch in tqdm(batches, "baselines", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history = histories_of(batch, queries)
        for chunk in chunks(len(history), num_items):
            for name, (scorer, _) in baselines.items():
                begin = time.perf_counter()
                ranks = rank(scorer(history[chunk]), queries.target[chunk])
                seconds[name] += time.perf_counter() - begin
                event = queries.event[chunk]
                answers[name].append(RankingResults.of(event, ranks, event.new_empty(len(event), 0)))
    whole = {name: in_order(parts) for name, parts in answers.items()}
    cost = {f"{name}/fit_seconds": fitted.seconds for name, fitted in baselines.items()}
    speed = {f"{name}/queries_per_second": len(whole[name].event) / max(s, 1e-9) for name, s in seconds.items()}
    return whole, cost | speed
