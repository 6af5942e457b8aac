"""Objective: the event type that a query asks for, as a condition on the user vector and the pointer.

What one views next and what one buys next are different questions. One tower answers both: its output x becomes
x * (1 + scale[o]) + shift[o] for the objective o (FiLM, Perez et al. 2018, arXiv:1709.07871), so an answer for another
objective costs no second tower, and item vectors and index are the same for all.
Shapes: T event types, D embedding dim.
"""

import torch
from torch import Tensor, nn

from twotower.core.event_codes import ANY_TYPE


class Objective(nn.Module):
    """Scale and shift of the user tower's output by objective; they start at zero, as without.

    >>> objective = Objective(num_types=2, dim=4)
    >>> objective(torch.ones(1, 3, 4), torch.tensor([[ANY_TYPE, 1, 2]])).shape
    torch.Size([1, 3, 4])

    Args:
        num_types: T.
        dim: D.
        any_share: of the training positions that learn without their target's type, from 0 to 1.
    """

    def __init__(self, num_types: int, dim: int, any_share: float = 0.5) -> None:
        super().__init__()
        self.num_types, self.any_share = num_types, any_share
        self.scale = nn.Parameter(torch.zeros(1 + num_types, dim))
        self.shift = nn.Parameter(torch.zeros(1 + num_types, dim))

    def forward(self, states: Tensor, asked: Tensor) -> Tensor:
        """[B, L, D] states -> [B, L, D] for the objectives asked [B, L], or [B, 1] for all positions alike."""
        # index_select is several times as fast as advanced indexing, with its gradient.
        scale, shift = (
            table.index_select(0, asked.flatten()).view(*asked.shape, -1) for table in (self.scale, self.shift)
        )
        return states * (1 + scale) + shift

    def draw(self, target_type: Tensor) -> Tensor:
        """Event types [B, L] of targets -> codes [B, L] to train with: ANY_TYPE for a random `any_share` of them."""
        is_any = torch.rand(target_type.shape, device=target_type.device) < self.any_share
        return torch.where(is_any, ANY_TYPE, code_of(target_type))


def code_of(event_type: Tensor) -> Tensor:
    """Event types -> codes of the objectives that ask for them."""
    return event_type + 1
