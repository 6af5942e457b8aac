"""What a ranker answered to each query: all that metrics, intervals, slices and comparisons are computed from.

Shapes: Q queries, K places of a list, kinds of gain times cut-offs M.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.metrics.ranking import RankingMetrics, gain_names, gains_of
from twotower.metrics.ranks import Ranks

Array = npt.NDArray[Any]
LISTED = 20  # items of each list that are kept: 80 bytes a query


class RankingResults(NamedTuple):
    """One row a query."""

    event: Array  # [Q] int64 position of the target among the prepared events, which tells what query it is
    better: Array  # [Q] int32 how many items stand before the target
    tied: Array  # [Q] int32 how many share its place, itself included
    top: Array  # [Q, K] int32 item_index of the first K items; K is 0 where they were not kept

    @classmethod
    def of(cls, event: Tensor, ranks: Ranks, top: Tensor) -> "RankingResults":
        """From tensors of any device."""
        better, tied, lists = (x.cpu().numpy().astype(np.int32) for x in (ranks.better, ranks.tied, top))
        return cls(event.cpu().numpy(), better, tied, lists)


def in_order(parts: Sequence[RankingResults]) -> RankingResults:
    """All parts together, by event: the same order for every ranker, and for every number of processes."""
    whole = RankingResults(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(whole.event)
    return RankingResults(*(column[order] for column in whole))


def means_by_type(
    answers: RankingResults, event_type: Array, ks: Sequence[int], event_types: Sequence[str]
) -> dict[str, float]:
    """Of all queries, and of those whose target has each type, [Q]: see metrics.RankingMetrics."""
    metrics = RankingMetrics(ks, event_types)
    metrics.update(_ranks(answers), torch.from_numpy(event_type.astype(np.int64)))
    return metrics.compute()


def per_query_metrics(answers: RankingResults, ks: Sequence[int]) -> dict[str, Array]:
    """`recall_at_20` and so on: [Q] what each query is worth."""
    return dict(zip(gain_names(ks), gains_of(_ranks(answers), ks).T.numpy(), strict=True))


def _ranks(answers: RankingResults) -> Ranks:
    return Ranks(torch.from_numpy(answers.better).long(), torch.from_numpy(answers.tied).long())
