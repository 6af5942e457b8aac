"""Residual branches and feed-forward layers of deep user towers. Shapes: D embedding dim."""

import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.dropout import Dropout


class Branch(nn.Module):
    """x + gate(x) * dropout(layer(norm(x))).

    Pre-norm (Xiong et al. 2020, arXiv:2002.04745), gated as in LiGR (Borisyuk et al. 2025, arXiv:2502.03417).

    >>> import torch
    >>> Branch(SwiGLU(8), dim=8, dropout=0.1, gated=True)(torch.ones(2, 8)).shape
    torch.Size([2, 8])

    Args:
        layer: [..., D] -> [..., D]; may take further arguments.
        dim: D.
        dropout: share of the branch's components dropped in training.
        gated: whether sigmoid(linear(x)) multiplies the branch.
    """

    def __init__(self, layer: nn.Module, dim: int, dropout: float, gated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layer = layer
        self.dropout = Dropout(dropout)
        self.gate = nn.Linear(dim, dim) if gated else None

    def forward(self, hidden: Tensor, *context: Tensor) -> Tensor:
        """[..., D] and further arguments of the layer -> [..., D]."""
        branch: Tensor = self.dropout(self.layer(self.norm(hidden), *context))
        return hidden + (branch if self.gate is None else self.gate(hidden).sigmoid() * branch)


class SwiGLU(nn.Module):
    """Gated feed-forward, linear(silu(linear(x)) * linear(x)), 2 D wide (Shazeer 2020, arXiv:2002.05202).

    A gated block with it has as many weights as a plain block with GELU, 4 D wide.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(dim, 4 * dim)
        self.output = nn.Linear(2 * dim, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, value = self.input(hidden).chunk(2, dim=-1)
        result: Tensor = self.output(F.silu(gate) * value)
        return result


class GELU(nn.Sequential):
    """The plain feed-forward, linear(gelu(linear(x))), 4 D wide."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
