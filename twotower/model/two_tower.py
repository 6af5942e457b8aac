"""The two towers together: what training optimises and what export hands to serving.

Shapes: B sessions, L history length, D embedding dim, V items.
"""

import torch
from torch import Tensor, nn

from twotower.schema import PAD


class TwoTower(nn.Module):
    """A user tower over the vectors of an item tower; the dot product of the two ranks the catalogue.

    Args:
        item_tower: [...] item_index -> [..., D].
        user_tower: [B, L, D] item vectors -> [B, L, D] user vectors, causal.
    """

    def __init__(self, item_tower: nn.Module, user_tower: nn.Module) -> None:
        super().__init__()
        self.item_tower = item_tower
        self.user_tower = user_tower

    def encode_items(self) -> Tensor:
        """[V, D] the catalogue's vectors: row r is item_index r + 1."""
        device = next(self.parameters()).device
        num_items = int(self.item_tower.num_items)  # type: ignore[arg-type]
        vectors: Tensor = self.item_tower(torch.arange(1, num_items + 1, device=device))
        return vectors

    def forward(self, item_index: Tensor) -> Tensor:
        """[B, L] histories, PAD on the right, none empty -> [B, D] the vector after each one's newest event."""
        vectors: Tensor = self.user_tower(self.item_tower(item_index))
        newest = (item_index != PAD).sum(dim=1, keepdim=True) - 1
        return vectors.gather(1, newest[:, :, None].expand(-1, -1, vectors.shape[-1])).squeeze(1)
