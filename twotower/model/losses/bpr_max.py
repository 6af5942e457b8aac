"""BPR-max. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.losses.cross_entropy import log_sum_exp
from twotower.model.scoring import Scores, logits


def bpr_max(scores: Scores, regularization: float) -> Tensor:
    """-log of the weighted chance that the target beats a negative, + the weighted mean of their squared scores, [P].

    The weights are the negatives' softmax, so that hard negatives count (Hidasi & Karatzoglou 2018). The softmax is
    over corrected logits, which makes it an estimate of the one over the catalogue; what is compared and squared are
    scores without correction. A target to be ranked low is to lose against the negatives. A position without any
    negative costs nothing.

    Args:
        scores: of P positions.
        regularization: weight of the squared scores; with cosine similarity they are bounded as it is.
    """
    target, negative, sign = logits(scores)
    absent = negative == -torch.inf
    others = log_sum_exp(negative)[:, None]
    log_weight = negative - others.masked_fill(others == -torch.inf, 0.0)
    score = (negative + scores.log_q).masked_fill(absent, 0.0)
    log_chance = log_sum_exp(log_weight + F.logsigmoid(sign[:, None] * (target[:, None] - score)))
    squares = (log_weight.exp() * score.square()).sum(1)
    return (regularization * squares - log_chance).masked_fill(absent.all(1), 0.0)
