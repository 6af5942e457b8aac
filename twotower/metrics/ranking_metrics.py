"""recall@k, ndcg@k and mrr@k over the whole catalogue, of all queries, by event type, and of repeated and new targets.

A new metric is one function of the target's rank, added to METRICS: logs, tables, intervals, slices and comparisons
take names and values from there. Another package adds its metrics as entry points of the group "twotower.metrics".
Shapes: Q queries, T event types, M metrics times cut-offs, R ranks.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points

import torch
from torch import Tensor
from torchmetrics import Metric

from twotower.metrics.ranks import Ranks


def recall(rank: Tensor) -> Tensor:
    """1 at every rank. With one target a query, recall@k is the hit rate."""
    return torch.ones_like(rank)


def ndcg(rank: Tensor) -> Tensor:
    """1 / log2(rank + 1) (Järvelin & Kekäläinen 2002). With one target a query, the ideal DCG is 1."""
    return 1 / torch.log2(rank + 1)


def mrr(rank: Tensor) -> Tensor:
    """1 / rank (Voorhees 1999)."""
    return 1 / rank


# The value of a target at each rank [R], 1 the best, up to the cut-off k; it is 0 beyond.
METRICS: tuple[Callable[[Tensor], Tensor], ...] = (
    *(recall, ndcg, mrr),
    *(entry.load() for entry in entry_points(group="twotower.metrics")),  # of other installed packages
)


TARGETS = ("repeat", "new")  # a target that is in its own history, and one that is not


class RankingMetrics(Metric):
    """Means of the per-query values of METRICS, accumulated over batches and summed over processes.

    A target that ties with others gets the mean over the ranks that they share, which is its expectation if ties were
    broken at random. So a constant scorer gets exactly a random ranker's score.

    >>> metrics = RankingMetrics(ks=[2], event_types=["view"])
    >>> metrics.update(Ranks(better=torch.tensor([0, 1]), tied=torch.tensor([1, 2])), event_type=torch.tensor([0, 0]))
    >>> metrics.compute()["recall_at_2"]  # the second target shares ranks 2 and 3
    0.75

    Args:
        ks: cut-offs.
        event_types: names by code; with more than one, each has metrics of its own beside the total.

    Targets that are in their history and those that are not have metrics of their own, too (`recall_at_20_repeat`,
    `recall_at_20_new`), where `update` tells them apart.
    """

    full_state_update = False

    def __init__(self, ks: Sequence[int], event_types: Sequence[str]) -> None:
        super().__init__()
        self.ks = list(ks)
        self.event_types = list(event_types)
        shape = (len(self.event_types), len(TARGETS) + 1, len(metric_names(ks)))  # the last: not told apart
        self.add_state("total", torch.zeros(shape, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape[:2], dtype=torch.long), dist_reduce_fx="sum")
        self.total: Tensor
        self.count: Tensor

    def update(self, ranks: Ranks, event_type: Tensor, is_repeat: Tensor | None = None) -> None:
        """Add queries: ranks [Q], their targets' event types [Q], and whether these are in their histories [Q]."""
        kind = torch.full_like(event_type, len(TARGETS)) if is_repeat is None else 1 - is_repeat.long()
        cell = event_type * (len(TARGETS) + 1) + kind
        self.total.view(-1, self.total.shape[-1]).index_add_(0, cell, metric_values(ranks, self.ks))
        self.count += torch.bincount(cell, minlength=self.count.numel()).view_as(self.count)

    def compute(self) -> dict[str, float]:
        """Return `recall_at_20` and so on, 0 without a query; `purchase/recall_at_20` and `recall_at_20_new` if any."""
        names = metric_names(self.ks)
        mean = (self.total.sum((0, 1)) / self.count.sum().clamp(min=1)).tolist()
        result = dict(zip(names, mean, strict=True))
        types = [(f"{event_type}/", "") for event_type in self.event_types] if len(self.event_types) > 1 else []
        parts = [*zip(types, self.total.sum(1), self.count.sum(1), strict=False)]
        parts += zip((("", f"_{name}") for name in TARGETS), self.total.sum(0), self.count.sum(0), strict=False)
        for (before, after), total, count in parts:
            if count:
                values = (total / count).tolist()
                result |= {f"{before}{name}{after}": value for name, value in zip(names, values, strict=True)}
        return result


def metric_names(ks: Sequence[int]) -> list[str]:
    """Names of all metrics, `recall_at_10` first, in the order of `metric_values`."""
    return [f"{metric.__name__}_at_{k}" for metric in METRICS for k in ks]


def metric_values(ranks: Ranks, ks: Sequence[int]) -> Tensor:
    """[Q, M] float64 per-query metric values; a target that ties gets the mean over the ranks that it shares."""
    sums = _summed_over_ranks(tuple(ks)).to(ranks.better.device)
    last = sums.shape[1] - 1
    through = sums[:, (ranks.better + ranks.tied).clamp(max=last)]
    before = sums[:, ranks.better.clamp(max=last)]
    return ((through - before) / ranks.tied).T


@cache
def _summed_over_ranks(ks: tuple[int, ...]) -> Tensor:
    """[M, longest k + 1] the sum of each metric's values at ranks 1 to r, in column r."""
    rank = torch.arange(1, max(ks) + 1, dtype=torch.double)
    values = torch.stack([torch.where(rank <= k, metric(rank), 0.0) for metric in METRICS for k in ks])
    return torch.nn.functional.pad(values, (1, 0)).cumsum(1)
