"""User tower: a causal, pre-norm transformer (SASRec, Kang & McAuley 2018; pre-norm, Xiong et al. 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TransformerTower(nn.Module):
    """Self-attention over the history; every position attends to itself and what came before.

    Args:
        dim: D.
        layers: blocks of attention and feed-forward.
        heads: attention heads; divides `dim`.
        dropout: share of components dropped in training, after the input and in each residual branch.
        max_length: the longest history; positions are learned from the oldest event on.
        normalize: give vectors of length one.
    """

    def __init__(self, dim: int, layers: int, heads: int, dropout: float, max_length: int, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.position = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.output = nn.LayerNorm(dim)

    def forward(self, history: Tensor) -> Tensor:
        """[B, L, D] item vectors -> [B, L, D] user vectors; L is at most `max_length`."""
        hidden = self.dropout(self.norm(history) + self.position[: history.shape[1]])
        for block in self.blocks:
            hidden = block(hidden)
        vectors: Tensor = self.output(hidden)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


class Block(nn.Module):
    """One pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attention_output = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(self.attention_norm(hidden)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.dropout(self.attention_output(mixed.transpose(1, 2).flatten(-2)))
        branch: Tensor = self.dropout(self.feed_forward(hidden))
        return hidden + branch
