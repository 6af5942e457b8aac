"""Residual of the user vector: a weighted sum of the history's item vectors, added to the user tower's output.

With it a user vector can lie in the space that the items span, close to the items seen, for any user tower (CORE, Hou
et al. 2022, arXiv:2204.11067). Shapes: B sessions, L history length, D embedding dim.
"""

import math

import torch
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """A causal, learned, weighted mean of the history's item vectors.

    The weight of item i at position t is a softmax over i <= t of (W asking_t + w) . state_i / sqrt(D) plus a bias for
    the distance t - i; with W = 0 it is CORE's. W, w and the bias start at zero, so it begins as the plain mean.
    The sum is multiplied by a learned scale that starts at sqrt(D), about the length of a tower's output, as item
    vectors have length one.

    >>> states = torch.zeros(1, 2, 4)
    >>> WeightedSum(dim=4, max_length=9)(torch.ones(1, 2, 4), states, asking=states)[0, 1]
    tensor([2., 2., 2., 2.], grad_fn=<SelectBackward0>)

    Args:
        dim: D.
        max_length: the longest history.
    """

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)
        self.position = nn.Parameter(torch.zeros(max_length))
        self.scale = nn.Parameter(torch.tensor(math.sqrt(dim)))

    def forward(self, item_vectors: Tensor, states: Tensor, asking: Tensor) -> Tensor:
        """Add for the history's item vectors [B, L, D] and the tower's output, of events and of who asks after each.

        Without a time of the query `asking` is the same as `states`, both [B, L, D] as the result is.
        """
        place = torch.arange(states.shape[1], device=states.device)
        distance = place[:, None] - place
        bias = self.position[distance.clamp(min=0)].masked_fill(distance < 0, -math.inf)
        scores = self.query(asking) @ states.transpose(-1, -2) / math.sqrt(states.shape[-1]) + bias
        mean: Tensor = scores.softmax(-1) @ item_vectors
        return self.scale * mean
