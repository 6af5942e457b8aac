"""Losses: pure functions of logits. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.scoring import Logits


def softmax(logits: Logits) -> Tensor:
    """Cross-entropy of the target among itself and the negatives, [P].

    p being the target's share of the softmax, a position costs -log(p) where the target is to be ranked high, and
    -log(1 - p) where low. With every item as a negative this is the full softmax; with sampled ones and logQ, its
    estimate. A position without any negative costs nothing.
    """
    others = torch.logsumexp(logits.negative, dim=1)
    margin = logits.sign * (others - logits.target)
    return F.softplus(margin.masked_fill(others == -torch.inf, -torch.inf))
