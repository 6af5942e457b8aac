"""User tower: the mean of the event vectors seen so far, through one residual layer."""

import torch
from torch import Tensor, nn

from twotower.model.dropout import Dropout


class MeanPoolTower(nn.Module):
    """The simplest tower: the order within the history is ignored.

    >>> tower = MeanPoolTower(dim=8, dropout=0.2)
    >>> tower(events=torch.randn(2, 5, 8), seconds=torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 8])

    Args:
        dim: D.
        dropout: share of the mean's components dropped in training.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, events: Tensor, seconds: Tensor) -> Tensor:
        """[B, L, D] event vectors -> [B, L, D]; the events' times [B, L] are not used."""
        seen = torch.arange(1, events.shape[1] + 1, device=events.device, dtype=events.dtype)
        mean = self.dropout(events.cumsum(1) / seen[:, None])
        vectors: Tensor = mean + self.feed_forward(mean)
        return vectors
