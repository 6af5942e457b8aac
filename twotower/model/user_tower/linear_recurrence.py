"""User tower: a linear recurrence over the history (LRURec, Yue et al. 2024, arXiv:2310.02367).

Shapes: B sessions, L history length, D embedding dim.
"""

import math

import torch
from torch import Tensor, nn

from twotower.model.dropout import Dropout
from twotower.model.user_tower.branch import Branch, SwiGLU

RADIUS = 0.5, 0.99  # of the ring in the complex plane from which the initial factors are drawn


class LinearRecurrenceTower(nn.Module):
    """Blocks of a linear recurrence and a feed-forward: time and memory grow with L, not with its square.

    >>> tower = LinearRecurrenceTower(dim=8, layers=2, dropout=0.2)
    >>> tower(events=torch.randn(2, 5, 8), seconds=torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 8])

    Args:
        dim: D.
        layers: blocks.
        dropout: share of components dropped in training, after the input and in each residual branch.
    """

    def __init__(self, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        blocks = [layer for _ in range(layers) for layer in (LinearRecurrence(dim), SwiGLU(dim))]
        self.branches = nn.Sequential(*(Branch(layer, dim, dropout, gated=True) for layer in blocks))
        self.output = nn.LayerNorm(dim)

    def forward(self, events: Tensor, seconds: Tensor) -> Tensor:
        """[B, L, D] event vectors -> [B, L, D]; the events' times [B, L] are not used."""
        vectors: Tensor = self.output(self.branches(self.dropout(self.norm(events))))
        return vectors


class LinearRecurrence(nn.Module):
    """Linear map of D complex states, state_t = factor * state_(t-1) + scale * (W x_t).

    The linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349): |factor| = exp(-exp(decay)) < 1, its angle is
    exp(angle), and scale = sqrt(1 - |factor|^2) keeps states about as large as inputs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner, outer = (radius**2 for radius in RADIUS)
        size = (inner + (outer - inner) * torch.rand(dim)).sqrt()  # spread evenly over the ring's area
        self.decay = nn.Parameter((-size.log()).log())
        self.angle = nn.Parameter((2 * math.pi * torch.rand(dim).clamp(min=1e-3)).log())
        self.input = nn.Linear(dim, 2 * dim, bias=False)  # real and imaginary part of each channel in turn
        self.output = nn.Linear(2 * dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        inputs = self.input(hidden).float().unflatten(-1, (-1, 2)) * self.scale()[:, None]
        factor = torch.polar((-self.decay.float().exp()).exp(), self.angle.float().exp())
        # One event at a time: each step touches only its part of the memory; a parallel scan passes over all of it.
        states: list[Tensor] = []
        for now in torch.view_as_complex(inputs).unbind(1):
            states.append(torch.addcmul(now, factor, states[-1]) if states else now)
        parts = torch.view_as_real(torch.stack(states, dim=1)).flatten(-2)
        vectors: Tensor = self.output(parts.to(hidden.dtype))
        return vectors

    def scale(self) -> Tensor:
        """[D] factors of the inputs."""
        return (-torch.expm1(-2 * self.decay.exp())).sqrt()
