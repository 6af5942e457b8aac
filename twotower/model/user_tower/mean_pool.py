"""User tower: the mean of the item vectors seen so far, through one residual layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanPoolTower(nn.Module):
    """The simplest tower: order within the history is ignored.

    Args:
        dim: D.
        dropout: share of the mean's components that are dropped in training.
        normalize: give vectors of length one.
    """

    def __init__(self, dim: int, dropout: float, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, history: Tensor) -> Tensor:
        """[B, L, D] item vectors -> [B, L, D] user vectors."""
        seen = torch.arange(1, history.shape[1] + 1, device=history.device, dtype=history.dtype)
        mean = self.dropout(history.cumsum(1) / seen[:, None])
        vectors = mean + self.feed_forward(mean)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors
