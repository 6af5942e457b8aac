"""BPR-max. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.losses.cross_entropy import log_sum_exp
from twotower.model.scoring import Scores, logits


def bpr_max(scores: Scores, regularization: float) -> Tensor:
    """BPR-max loss [P]: -log of the weighted probability that the target beats a negative, and a penalty on scores.

    The weights are the negatives' softmax, so that hard negatives count (Hidasi & Karatzoglou 2018, arXiv:1706.03847).
    The softmax is over corrected logits, which makes it an estimate of the one over the catalogue; uncorrected scores
    are compared, and their weighted mean square is the penalty. A target to be ranked low has to lose against the
    negatives. A position without negatives has loss 0.

    >>> one = torch.ones(1, 1)
    >>> bpr_max(Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), 1.0), regularization=0.0)
    tensor([0.1269])

    Args:
        regularization: weight of the penalty; with cosine similarity scores are bounded without it.
    """
    target, negative, sign = logits(scores)
    absent = negative == -torch.inf
    others = log_sum_exp(negative)[:, None]
    log_weight = negative - others.masked_fill(others == -torch.inf, 0.0)
    score = (negative + scores.log_q).masked_fill(absent, 0.0)
    log_chance = log_sum_exp(log_weight + F.logsigmoid(sign[:, None] * (target[:, None] - score)))
    squares = (log_weight.exp() * score.square()).sum(1)
    return (regularization * squares - log_chance).masked_fill(absent.all(1), 0.0)
