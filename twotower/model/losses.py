"""Losses: pure functions of logits. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.scoring import Logits


def softmax(logits: Logits) -> Tensor:
    """Cross-entropy of the target among itself and the negatives, [P].

    With every item as a negative this is the full softmax; with sampled ones and logQ, its estimate.
    A position without any negative costs nothing.
    """
    return F.softplus(torch.logsumexp(logits.negative, dim=1) - logits.target)
