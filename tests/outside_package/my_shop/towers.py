"""A user tower of the last two events. Shapes: B sessions, L history length, D embedding dim."""

import torch.nn.functional as F
from torch import Tensor, nn


class LastTwoTower(nn.Module):
    """The newest event's vector, and a linear map of the one before."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, events: Tensor, seconds: Tensor) -> Tensor:
        """[B, L, D] event vectors and their times [B, L] -> [B, L, D] user vectors, each from events up to its own."""
        before = F.pad(events, (0, 0, 1, 0))[:, :-1]
        vectors: Tensor = events + self.linear(before)
        return vectors
