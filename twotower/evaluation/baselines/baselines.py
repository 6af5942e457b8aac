"""Rankers without gradient training, which a model must beat before it is deployed.

Each is fitted on the same events as the model and ranks the catalogue for the same queries. Shapes: Q queries, L
history length, V items.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from twotower.core.batch import SessionBatch
from twotower.core.event_codes import GAP
from twotower.core.schema import Prepared
from twotower.evaluation.baselines.item_neighbours import ItemKNN, SequentialRules, TrainingEvents
from twotower.evaluation.baselines.session_neighbours import STAN, VSKNN
from twotower.metrics.candidates import Candidates
from twotower.metrics.dense_ranks import rank
from twotower.metrics.queries import histories_of, queries_of
from twotower.metrics.ranking_results import RankingResults, concatenate_results
from twotower.metrics.running_top import RunningTop

Array = npt.NDArray[Any]
RECENT = 0.1  # the latest share of the events that `recent_popularity` counts
SCORES_AT_ONCE = 1 << 22  # elements of a score matrix held at one time: 16 MiB of float32


class Baseline(Protocol):
    """A scorer of the whole catalogue: [Q, L] histories, PAD on the right -> [Q, V]; column c is item_index c + 1."""

    def __call__(self, history: Tensor) -> Tensor: ...


class BaselineFit(Protocol):
    """Fits a baseline on training events [E]: rows of one session stand together, oldest first."""

    def __call__(self, *, item_index: Array, session: Array, timestamp: Array, num_items: int) -> Baseline: ...


class Fitted(NamedTuple):
    """A baseline and the time that fitting took."""

    scorer: Baseline
    seconds: float


class Popularity:
    """Items by their number of training events [V + 1], the same for every history.

    >>> Popularity(np.array([0, 7, 2]))(torch.tensor([[2]])).tolist()
    [[7.0, 2.0]]
    """

    def __init__(self, counts: Array) -> None:
        self.counts = torch.from_numpy(counts[1:].astype(np.float32))

    def __call__(self, history: Tensor) -> Tensor:
        """Return [Q, V] the counts."""
        return self.counts.expand(len(history), -1)


class SessionRepeat:
    """The items of the session itself, the most recent first, then others by popularity [V + 1].

    >>> SessionRepeat(np.array([0, 9, 0, 0]))(torch.tensor([[3, 2, 0]])).tolist()
    [[0.8999999761581421, 2.0, 1.0]]
    """

    def __init__(self, counts: Array) -> None:
        self.rest = torch.from_numpy(counts / (counts.max() + 1)).float()  # below 1, the least score of a seen item

    def __call__(self, history: Tensor) -> Tensor:
        """Return [Q, V] the position of each item's last occurrence, from 1."""
        scores = self.rest.repeat(len(history), 1)
        recency = torch.arange(1, history.shape[1] + 1, dtype=scores.dtype).expand(history.shape)
        return scores.scatter_reduce(1, history, recency, "amax")[:, 1:]


def fit_baselines(
    prepared: Prepared, include_validation: bool, extra: Mapping[str, BaselineFit] | None = None
) -> dict[str, Fitted]:
    """Fit all baselines on the events that a model may learn from.

    Args:
        prepared: the events.
        include_validation: whether the validation part belongs to these.
        extra: further baselines by name, such as those of another package.
    """
    session = np.repeat(np.arange(len(prepared.offsets) - 1), np.diff(prepared.offsets))
    training = prepared.training_mask(include_validation)
    columns = (prepared.item_index[training], session[training], prepared.timestamp[training])
    events = TrainingEvents(*columns, prepared.num_items)

    def counts(since: float) -> Array:
        return np.bincount(events.item_index[events.timestamp >= since], minlength=events.num_items + 1)

    recently = np.quantile(events.timestamp, 1 - RECENT)
    fade_days = 5.0 if GAP in prepared.inputs else None  # without gaps the timestamps are only an order
    recipes: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Popularity(counts(-np.inf)),
        "recent_popularity": lambda: Popularity(counts(recently)),
        "session_repeat": lambda: SessionRepeat(counts(-np.inf)),
        "sequential_rules": lambda: SequentialRules(events),
        "item_knn": lambda: ItemKNN(events),
        "v_sknn": lambda: VSKNN(events),
        "stan": lambda: STAN(events, fade_days=fade_days),
    }
    for name, fit_extra in (extra or {}).items():
        recipes[name] = partial(fit_extra, **events._asdict())
    fitted = {}
    for name, fit in tqdm(recipes.items(), "fitting baselines", leave=False, disable=None):
        begin = time.perf_counter()
        fitted[name] = Fitted(fit(), time.perf_counter() - begin)
    return fitted


def rank_with_baselines(
    baselines: Mapping[str, Fitted],
    batches: Iterable[SessionBatch],
    num_items: int,
    ranked: Candidates,
    list_length: int = 0,
) -> tuple[dict[str, RankingResults], dict[str, float]]:
    """Rank the targets of all batches; return each baseline's results and costs (`item_knn/queries_per_second`).

    Args:
        baselines: fitted, by name.
        batches: of queries.
        num_items: V.
        ranked: the items that are ranked.
        list_length: of the lists of the best items to keep, beside the targets' ranks.
    """
    parts: dict[str, list[RankingResults]] = {name: [] for name in baselines}
    seconds = dict.fromkeys(baselines, 0.0)
    for batch in tqdm(batches, "baselines", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history, restrict = histories_of(batch, queries), ranked.restriction(queries.event)
        at_once = max(1, SCORES_AT_ONCE // num_items)
        for chunk in (slice(begin, begin + at_once) for begin in range(0, len(history), at_once)):
            for name, (scorer, _) in baselines.items():
                begin = time.perf_counter()
                scores = scorer(history[chunk])
                if restrict:
                    scores = scores.clone()  # may be a view of what the baseline keeps
                    for change in restrict:
                        change.of(chunk).apply(scores, 0)
                ranks = rank(scores, queries.target[chunk])
                seconds[name] += time.perf_counter() - begin
                top = RunningTop(scores[:, 0], min(list_length, num_items))
                if list_length:
                    top.update(scores, first=0)
                parts[name].append(RankingResults.of(queries.event[chunk], ranks, top.items()))
    results = {name: concatenate_results(each) for name, each in parts.items()}
    costs = {f"{name}/fit_seconds": fitted.seconds for name, fitted in baselines.items()}
    speed = {f"{name}/queries_per_second": len(results[name].event) / max(s, 1e-9) for name, s in seconds.items()}
    return results, costs | speed
