"""Uniform negatives. Shapes: P targets of a step, N negatives, V items."""

import math

import torch
from torch import Tensor, nn

from twotower.model.negatives import Negatives


class Uniform(nn.Module):
    """`draws` items of the whole catalogue a step, with their exact probability to be among the negatives."""

    def __init__(self, target_counts: Tensor, draws: int) -> None:
        super().__init__()
        self.num_items = len(target_counts) - 1
        self.draws = draws

    def forward(self, target: Tensor) -> Negatives:
        """[P] targets -> distinct ids [N] in ascending order, and their log-probabilities."""
        ids = torch.unique(torch.randint(1, self.num_items + 1, (self.draws,), device=target.device))
        log_q = math.log(-math.expm1(self.draws * math.log1p(-1 / self.num_items)))
        return Negatives(ids, torch.full((len(ids),), log_q, device=target.device))
