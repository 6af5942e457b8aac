"""Dropout at a third of the cost of torch's on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.errors import UserError


class Dropout(nn.Module):
    """In training, zero each component with probability `share` and scale the others by 1 / (1 - share).

    On a CPU eight components share one 64-bit random number, a byte each, so `share` is rounded to a 256th on every
    device. torch draws one number for each component, which takes a tenth or more of a user tower's training.

    >>> Dropout(0.25).eval()(torch.ones(3))  # nothing is dropped outside training
    tensor([1., 1., 1.])

    Raises:
        UserError: `share` is not in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise UserError(f"dropout={share}; expected the share of components to drop, from 0 to less than 1")
        self.dropped = min(round(share * 256), 255)  # of the 256 values of a byte

    def forward(self, values: Tensor) -> Tensor:
        """[...] -> [...]."""
        if not (self.training and self.dropped):
            return values
        if values.device.type != "cpu":
            return F.dropout(values, self.dropped / 256)
        numbers = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.uint8)[: values.numel()].view(values.shape) >= self.dropped
        return values * kept.to(values.dtype).mul_(256 / (256 - self.dropped))
