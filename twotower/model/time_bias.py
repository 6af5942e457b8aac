"""A learned bias by how long ago events were. Shapes: B rows, L history length, n moments of a row, H heads."""

import math

import torch
from torch import Tensor, nn


class TimeBias(nn.Module):
    """A bias for each head and each bucket of the time from an event to a moment; all start at zero.

    Two buckets for each doubling, the last one from 68 years on, and one for an unknown time.

    >>> TimeBias(heads=2)(now=torch.tensor([[1000]]), seconds=torch.tensor([[900, 990, 0]])).shape
    torch.Size([1, 2, 1, 3])
    """

    starts: Tensor  # of all buckets but the first, in whole seconds

    def __init__(self, heads: int) -> None:
        super().__init__()
        starts = torch.tensor(sorted({math.ceil(2 ** (k / 2)) - 1 for k in range(1, 63)}))
        self.register_buffer("starts", starts, persistent=False)
        self.bias = nn.Parameter(torch.zeros(heads, len(starts) + 2))

    def forward(self, now: Tensor, seconds: Tensor) -> Tensor:
        """Moments [B, n] and times of events [B, L], in seconds, 0 if unknown -> [B, H, n, L]."""
        gap = now[:, :, None] - seconds[:, None]  # negative for later events: the first bucket
        known = (now > 0)[:, :, None] & (seconds > 0)[:, None]
        bucket = (1 + torch.bucketize(gap, self.starts, right=True)) * known
        # index_select is four times as fast as an embedding's look-up, with its gradient.
        return self.bias.index_select(1, bucket.flatten()).view(-1, *bucket.shape).transpose(0, 1)
