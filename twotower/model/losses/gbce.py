"""Generalised binary cross-entropy. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.scoring import Scores, logits


def gbce(scores: Scores, t: float) -> Tensor:
    """Mean binary cross-entropy of the target and its negatives, the target's probability raised to beta, [P].

    Few negatives make a model overconfident; beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a) takes that back, a being
    the rate at which items are sampled (gSASRec, Petrov & Macdonald 2023). It is taken from log_q, N over the number
    of items that the negatives stand for, the sum of 1 / q: exactly q for uniform draws. There is no logQ correction
    as each score is judged alone: items drawn more often are pushed down more, so uniform negatives suit it (paper).
    A target to be ranked low is one more negative, and is all that its position costs.

    Args:
        scores: of P positions.
        t: calibration; 0 is plain binary cross-entropy, 1 makes scores as probable as full softmax would.
    """
    target, negative, sign = logits(scores._replace(log_q=torch.zeros_like(scores.log_q)))
    rate = len(scores.log_q) / torch.exp(-scores.log_q).sum()
    beta = 1 - t * (1 - rate)
    high = beta * F.softplus(-target) + F.softplus(negative).sum(1)
    count = 1 + len(scores.log_q) - (scores.hit >= 0).to(target.dtype)
    return torch.where(sign > 0, high, F.softplus(target)) / count
