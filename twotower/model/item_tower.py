"""Item tower: a catalogue row to a vector. Shapes: V items, D embedding dim."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.schema import PAD


class IdItemTower(nn.Module):
    """One learned vector an item.

    Args:
        num_items: V; indices run from 1 to V, 0 is PAD (the zero vector).
        dim: D.
        normalize: give vectors of length one, for cosine similarity.
    """

    def __init__(self, num_items: int, dim: int, normalize: bool) -> None:
        super().__init__()
        self.num_items = num_items
        self.normalize = normalize
        self.embedding = nn.Embedding(num_items + 1, dim, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight.normal_(std=dim**-0.5)  # about length one
            self.embedding.weight[PAD].zero_()

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        vectors: Tensor = self.embedding(item_index)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors
