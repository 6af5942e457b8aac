"""recall@k, ndcg@k and mrr@k over the whole catalogue, by event type. Shapes: Q queries, T types, K cut-offs."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torchmetrics import Metric

from twotower.metrics.ranks import Ranks

KINDS = ("recall", "ndcg", "mrr")


class RankingMetrics(Metric):
    """Mean gain of the target's rank. With one target a query, recall equals the hit rate.

    A target that ties with others gets the mean over the places that they share, which is what it would get on
    average if ties were broken at random. So a constant scorer gets exactly a random ranker's score.

    Args:
        ks: cut-offs.
        event_types: names by code; with more than one, each has metrics of its own beside the total.
    """

    full_state_update = False

    def __init__(self, ks: Sequence[int], event_types: Sequence[str]) -> None:
        super().__init__()
        self.ks = list(ks)
        self.event_types = list(event_types)
        shape = (len(self.event_types), len(gain_names(ks)))
        self.add_state("total", torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape[0], dtype=torch.long), dist_reduce_fx="sum")
        self.total: Tensor
        self.count: Tensor

    def update(self, ranks: Ranks, event_type: Tensor) -> None:
        """Add queries: ranks [Q] and their targets' event types [Q]."""
        self.total.index_add_(0, event_type, gains_of(ranks, self.ks))
        self.count += torch.bincount(event_type, minlength=len(self.event_types))

    def compute(self) -> dict[str, float]:
        """`recall_at_20` and so on; `purchase/recall_at_20` by type; 0 where there is no query."""
        names = gain_names(self.ks)
        mean = (self.total.sum(0) / self.count.sum().clamp(min=1)).tolist()
        result = dict(zip(names, mean, strict=True))
        if len(self.event_types) > 1:
            for name, total, count in zip(self.event_types, self.total, self.count, strict=True):
                if count:
                    values = (total / count).tolist()
                    result |= {f"{name}/{m}": v for m, v in zip(names, values, strict=True)}
        return result


def gain_names(ks: Sequence[int]) -> list[str]:
    """The metrics' names, `recall_at_10` first, in the order of `gains_of`."""
    return [f"{kind}_at_{k}" for kind in KINDS for k in ks]


def gains_of(ranks: Ranks, ks: Sequence[int]) -> Tensor:
    """[Q, kinds * K] float64 what each query is worth; a target that ties gets the mean over the places it shares."""
    table = _cumulative(tuple(ks)).to(ranks.better.device)
    last = table.shape[1] - 1
    through = table[:, (ranks.better + ranks.tied).clamp(max=last)]
    before = table[:, ranks.better.clamp(max=last)]
    return ((through - before) / ranks.tied).T


@cache
def _cumulative(ks: tuple[int, ...]) -> Tensor:
    """[kinds * K, longest + 1] what all places up to a rank are worth together."""
    return torch.stack([gains(kind, k, max(ks)).cumsum(0) for kind in KINDS for k in ks])


def gains(kind: str, k: int, longest: int) -> Tensor:
    """[longest + 1] what rank 0 (none), 1, 2, ... is worth: 1, 1/log2(rank + 1) or 1/rank up to k, then nothing."""
    place = torch.arange(longest + 1, dtype=torch.double)
    worth = {"recall": torch.ones_like(place), "ndcg": 1 / torch.log2(place + 1), "mrr": 1 / place}[kind]
    return torch.where((place >= 1) & (place <= k), worth, 0.0)
