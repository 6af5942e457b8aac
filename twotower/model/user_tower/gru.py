"""User tower: a gated recurrent unit over the history (GRU4Rec, Hidasi et al. 2016, arXiv:1511.06939)."""

from torch import Tensor, nn

from twotower.model.dropout import Dropout


class GRUTower(nn.Module):
    """A GRU whose state at each position becomes the user vector.

    >>> import torch
    >>> tower = GRUTower(dim=8, layers=1, dropout=0.2)
    >>> tower(events=torch.randn(2, 5, 8), seconds=torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 8])

    Args:
        dim: D.
        layers: stacked GRU layers.
        dropout: share of the components of inputs and states dropped in training.
    """

    def __init__(self, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.gru = nn.GRU(dim, dim, num_layers=layers, batch_first=True)
        self.output = nn.Linear(dim, dim)

    def forward(self, events: Tensor, seconds: Tensor) -> Tensor:
        """[B, L, D] event vectors -> [B, L, D]; the events' times [B, L] are not used."""
        states, _ = self.gru(self.dropout(self.norm(events)))
        vectors: Tensor = self.output(self.dropout(states))
        return vectors
