"""The two towers together: what training optimises and what export hands to serving.

Shapes: B sessions, L history length, K event inputs, D embedding dim, V items.
"""

import torch
from torch import Tensor, nn

from twotower.schema import PAD


class TwoTower(nn.Module):
    """A user tower over the events of a history; the dot product with the item tower's vectors ranks the catalogue.

    Args:
        item_tower: [...] item_index -> [..., D]; PAD is the zero vector.
        event_inputs: item vectors [B, L, D] and codes [B, L, K] -> event vectors [B, L, D].
        user_tower: [B, L, D] event vectors -> [B, L, D] user vectors, causal.
    """

    def __init__(self, item_tower: nn.Module, event_inputs: nn.Module, user_tower: nn.Module) -> None:
        super().__init__()
        self.item_tower = item_tower
        self.event_inputs = event_inputs
        self.user_tower = user_tower

    def encode_items(self) -> Tensor:
        """[V, D] the catalogue's vectors: row r is item_index r + 1."""
        device = next(self.parameters()).device
        num_items = int(self.item_tower.num_items)  # type: ignore[arg-type]
        vectors: Tensor = self.item_tower(torch.arange(1, num_items + 1, device=device))
        return vectors

    def encode_history(self, item_vectors: Tensor, inputs: Tensor) -> Tensor:
        """The history's item vectors [B, L, D] and codes [B, L, K] -> [B, L, D] user vectors."""
        vectors: Tensor = self.user_tower(self.event_inputs(item_vectors, inputs))
        return vectors

    def forward(self, item_index: Tensor, inputs: Tensor) -> Tensor:
        """The user's vector after the newest event of each history.

        Args:
            item_index: [B, L] histories, PAD on the right, none empty.
            inputs: [B, L, K] codes of their events.

        Returns:
            [B, D].
        """
        vectors = self.encode_history(self.item_tower(item_index), inputs)
        newest = (item_index != PAD).sum(dim=1, keepdim=True) - 1
        return vectors.gather(1, newest[:, :, None].expand(-1, -1, vectors.shape[-1])).squeeze(1)
