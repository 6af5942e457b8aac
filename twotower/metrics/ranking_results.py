"""Ranking results of a test: what all metrics, intervals, slices and comparisons are computed from.

Shapes: Q queries, K items of a list.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.metrics.ranking_metrics import RankingMetrics, metric_names, metric_values
from twotower.metrics.ranks import Ranks

Array = npt.NDArray[Any]
LIST_LENGTH = 20  # items of each list that are kept: 80 bytes a query


class RankingResults(NamedTuple):
    """The target's rank and the recommended list of each query, one a row.

    >>> results = RankingResults(event=np.array([7]), better=np.array([4]), tied=np.array([1]), top=np.array([[3, 1]]))
    >>> per_query_metrics(results, ks=[10])["mrr_at_10"]  # four items are ranked before the target
    array([0.2])
    """

    event: Array  # [Q] int64 position of the target among the prepared events; it identifies the query
    better: Array  # [Q] int32 number of items with a better score than the target; IMPOSSIBLE: it is not ranked
    tied: Array  # [Q] int32 number of items with the target's score, itself included
    top: Array  # [Q, K] int32 item_index of the first K items, PAD after the last; K is 0 where they were not kept

    @classmethod
    def of(cls, event: Tensor, ranks: Ranks, top: Tensor) -> "RankingResults":
        """Convert tensors of any device."""
        better, tied, lists = (x.cpu().numpy().astype(np.int32) for x in (ranks.better, ranks.tied, top))
        return cls(event.cpu().numpy(), better, tied, lists)

    def ranks(self) -> Ranks:
        """Return the ranks as int64 tensors."""
        return Ranks(torch.from_numpy(self.better).long(), torch.from_numpy(self.tied).long())


def concatenate_results(parts: Sequence[RankingResults]) -> RankingResults:
    """Join parts and sort the queries by event: the same order for every ranker and every number of processes."""
    whole = RankingResults(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(whole.event)
    return RankingResults(*(column[order] for column in whole))


def means_by_type(
    results: RankingResults, event_type: Array, is_repeat: Array, ks: Sequence[int], event_types: Sequence[str]
) -> dict[str, float]:
    """Mean metrics of all queries, by target event type [Q] and by repeats [Q]; keys as in RankingMetrics.compute."""
    metrics = RankingMetrics(ks, event_types)
    metrics.update(results.ranks(), torch.from_numpy(event_type.astype(np.int64)), torch.from_numpy(is_repeat))
    return metrics.compute()


def per_query_metrics(results: RankingResults, ks: Sequence[int]) -> dict[str, Array]:
    """Per-query metric values [Q], by name: `recall_at_20` and so on."""
    return dict(zip(metric_names(ks), metric_values(results.ranks(), ks).T.numpy(), strict=True))
