"""Generalised binary cross-entropy. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.scoring import Scores, logits


def gbce(scores: Scores, t: float) -> Tensor:
    """Mean binary cross-entropy [P] of the target and its negatives, the target's probability raised to beta.

    Few negatives make a model overconfident; beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a) corrects that, where a is
    the sampling rate of items (gSASRec, Petrov & Macdonald 2023, arXiv:2308.07192). The rate follows from log_q: N over
    the number of items that the negatives represent, the sum of 1 / q; exactly q for uniform draws. There is no logQ
    correction, as each score is judged alone: items drawn more often are pushed down more, so use uniform negatives,
    like the paper. The loss of a target to be ranked low is that of one more negative.

    >>> one = torch.ones(1, 1)
    >>> gbce(Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), 1.0), t=0.75)
    tensor([0.3133])

    Args:
        t: calibration; 0 is plain binary cross-entropy, 1 makes scores as probable as full softmax would.
    """
    target, negative, sign = logits(scores._replace(log_q=torch.zeros_like(scores.log_q)))
    rate = len(scores.log_q) / torch.exp(-scores.log_q).sum()
    beta = 1 - t * (1 - rate)
    high = beta * F.softplus(-target) + F.softplus(negative).sum(1)
    count = 1 + len(scores.log_q) - (scores.hit >= 0).to(target.dtype)
    return torch.where(sign > 0, high, F.softplus(target)) / count
