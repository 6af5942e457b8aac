"""User tower: a gated recurrent unit over the history (GRU4Rec, Hidasi et al. 2016)."""

import torch.nn.functional as F
from torch import Tensor, nn


class GRUTower(nn.Module):
    """A GRU whose state at each position becomes the user vector.

    Args:
        dim: D.
        layers: stacked GRU layers.
        dropout: share of the inputs' and of the states' components that are dropped in training.
        normalize: give vectors of length one.
    """

    def __init__(self, dim: int, layers: int, dropout: float, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.gru = nn.GRU(dim, dim, num_layers=layers, batch_first=True)
        self.output = nn.Linear(dim, dim)

    def forward(self, history: Tensor) -> Tensor:
        """[B, L, D] item vectors -> [B, L, D] user vectors."""
        states, _ = self.gru(self.dropout(self.norm(history)))
        vectors: Tensor = self.output(self.dropout(states))
        return F.normalize(vectors, dim=-1) if self.normalize else vectors
