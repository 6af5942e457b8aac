"""Where negatives come from, and with which probability. Shapes: P targets of a step, N negatives, V items."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Negatives(NamedTuple):
    """Negatives shared by all targets of a step; ids are distinct and ascending."""

    ids: Tensor  # [N] item_index
    log_q: Tensor  # [N] log probability that a position with another target finds the item among the negatives


class CatalogueNegatives(nn.Module):
    """Every item, always: full softmax. Cost grows with P * V.

    Args:
        target_counts: [V + 1] how often each item is a target in the training data.
    """

    def __init__(self, target_counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", torch.arange(1, len(target_counts)), persistent=False)
        self.register_buffer("log_q", torch.zeros(len(target_counts) - 1), persistent=False)
        self.ids: Tensor
        self.log_q: Tensor

    def forward(self, target: Tensor) -> Negatives:
        """[P] targets -> all items, each with probability one."""
        return Negatives(self.ids, self.log_q)


class MixtureNegatives(nn.Module):
    """In-batch targets together with uniform draws, each item once.

    To a position with another target, an item is missing only if none of the other P - 1 targets and none of the
    `uniform` draws is it. So it is there with probability 1 - (1 - p)^(P - 1) (1 - 1/V)^uniform, p being its
    share of all targets. That is exact for draws with replacement, and the one log_q for the whole mixture.
    A catalogue of at most `uniform` items is taken whole: then the softmax is the full one, and no dearer.

    Args:
        target_counts: [V + 1] how often each item is a target in the training data.
        uniform: draws from the whole catalogue a step.
        in_batch: whether the step's own targets serve as negatives for each other.
    """

    def __init__(self, target_counts: Tensor, uniform: int, in_batch: bool) -> None:
        super().__init__()
        if uniform < 0 or (uniform == 0 and not in_batch):
            raise ValueError(f"uniform={uniform} with in_batch={in_batch}: there would be no negatives")
        self.num_items = len(target_counts) - 1
        self.uniform = uniform
        self.in_batch = in_batch
        self.whole = CatalogueNegatives(target_counts) if self.num_items <= uniform else None
        share = target_counts.double() / target_counts.sum().clamp(min=1)
        self.register_buffer("log_miss", torch.log1p(-share.clamp(max=1 - 1e-12)), persistent=False)
        self.log_miss: Tensor  # [V + 1] log probability that one in-batch target is another item

    def forward(self, target: Tensor) -> Negatives:
        """[P] targets -> the distinct negatives with their log_q."""
        if self.whole is not None:
            negatives: Negatives = self.whole(target)
            return negatives
        ids = torch.randint(1, self.num_items + 1, (self.uniform,), device=target.device)
        ids = torch.unique(torch.cat([ids, target]) if self.in_batch else ids)
        others = max(0, len(target) - 1) if self.in_batch else 0
        missed = self.uniform * math.log1p(-1 / self.num_items) + others * self.log_miss[ids]
        return Negatives(ids, torch.log(-torch.expm1(missed)).float())
