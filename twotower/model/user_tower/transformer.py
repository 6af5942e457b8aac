"""User tower: a causal transformer over the history.

With gated=false, relative_position=false it is SASRec (Kang & McAuley 2018, arXiv:1808.09781) with pre-norm blocks.
Gates and a SwiGLU feed-forward are LiGR's (Borisyuk et al. 2025, arXiv:2502.03417), attention biases by distance and by
time between events HSTU's (Zhai et al. 2024, arXiv:2402.17152).
Shapes: B sessions, L history length, D embedding dim, H heads.
"""

import math

import torch
from torch import Tensor, nn

from twotower.core.errors import UserError
from twotower.model.dropout import Dropout
from twotower.model.time_bias import TimeBias
from twotower.model.user_tower.branch import GELU, Branch, SwiGLU


class TransformerTower(nn.Module):
    """Self-attention over the history; every position attends to itself and earlier ones.

    >>> tower = TransformerTower(8, 2, 2, 0.2, max_length=50, gated=True, relative_position=True, time_bias=False)
    >>> tower(events=torch.randn(2, 5, 8), seconds=torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 8])

    Args:
        dim: D.
        layers: blocks of attention and feed-forward.
        heads: H; divides `dim`.
        dropout: share of components dropped in training, after the input and in each residual branch.
        max_length: the longest history.
        gated: gates on the residual branches and SwiGLU; else no gates and GELU, with as many weights.
        relative_position: a learned attention bias for each distance between events; else a learned vector for each
            position, counted from the oldest event.
        time_bias: a learned attention bias for the time between events, in buckets of its logarithm; and for the time
            from events to the moment that is asked about: see `asked`.

    Raises:
        UserError: `heads` does not divide `dim`.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        max_length: int,
        gated: bool,
        relative_position: bool,
        time_bias: bool,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.position = None if relative_position else nn.Parameter(torch.randn(max_length, dim) * 0.02)
        if dim % heads:
            raise UserError(f"model.dim={dim} is not divisible by model.user_tower.heads={heads}")
        self.relative_position = DistanceBias(layers * heads, max_length) if relative_position else None
        self.time_bias = TimeBias(layers * heads) if time_bias else None
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.attention = nn.ModuleList(Branch(Attention(dim, heads), dim, dropout, gated) for _ in range(layers))
        feed_forward = SwiGLU if gated else GELU
        self.feed_forward = nn.ModuleList(Branch(feed_forward(dim), dim, dropout, gated) for _ in range(layers))
        self.output = nn.LayerNorm(dim)

    def forward(self, events: Tensor, seconds: Tensor) -> Tensor:
        """[B, L, D] event vectors and their times [B, L] -> [B, L, D]; L is at most `max_length`."""
        return self.asked(events, seconds)[0]

    def asked(self, events: Tensor, seconds: Tensor, now: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward`; then [B, L, D] for positions asked about moments `now` [B, L] in seconds, by default their own.

        The last block attends a second time, with a bias by the time from each event to `now`. What it attends to knows
        no `now`, so no position's answer depends on the moment of another, which in training tells when events come.
        """
        hidden = self.norm(events)
        if self.position is not None:
            hidden = hidden + self.position[: events.shape[1]]
        hidden = self.dropout(hidden)
        *blocks, last = zip(self.attention, self.feed_forward, self._biases(events, seconds, seconds), strict=True)
        for attention, feed_forward, bias in blocks:
            hidden = feed_forward(attention(hidden, bias))
        attention, feed_forward, bias = last
        states: Tensor = self.output(feed_forward(attention(hidden, bias)))
        if now is None:
            return states, states
        bias = self._biases(events, seconds, now)[-1]
        return states, self.output(feed_forward(attention(hidden, bias)))

    def _biases(self, events: Tensor, seconds: Tensor, now: Tensor) -> tuple[Tensor, ...]:
        """Bias of each layer's attention scores, broadcastable to [B, H, L, L]; -inf for future events."""
        length = events.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=events.device).triu(1)
        bias = torch.zeros_like(future, dtype=events.dtype).masked_fill(future, -math.inf)[None, None]
        if self.relative_position is not None:
            bias = bias + self.relative_position(length)
        if self.time_bias is not None:
            bias = bias + self.time_bias(now, seconds)
        return bias.chunk(self.layers, dim=1) if bias.shape[1] > 1 else (bias,) * self.layers


class Attention(nn.Module):
    """Attention of H heads; the causal mask is in the bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """[B, L, D] and the bias of the scores -> [B, L, D]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(hidden).chunk(3, dim=-1)
        )
        # Written out: at these lengths as fast as scaled_dot_product_attention, whose fast path has no learned bias.
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2) + bias
        mixed: Tensor = self.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2))
        return mixed


class DistanceBias(nn.Module):
    """A learned attention bias for each head and each distance between two events."""

    def __init__(self, heads: int, max_length: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(heads, max_length))

    def forward(self, length: int) -> Tensor:
        """[1, H, L, L]: event i attends to event j, i - j events earlier; later events count as distance 0."""
        place = torch.arange(length, device=self.bias.device)
        distance = (place[:, None] - place).clamp(min=0)
        return self.bias[:, distance][None]
