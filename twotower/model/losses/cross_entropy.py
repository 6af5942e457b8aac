"""Softmax cross-entropy from logits. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def log_sum_exp(negative: Tensor) -> Tensor:
    """[..., N] -> [...] log of the summed exponentials, with a finite gradient also for N = 1 and -inf.

    A row has one accidental hit (-inf) at most, so only for N = 1 is all of it -inf, where torch's gradient is NaN.
    """
    return negative.squeeze(-1) if negative.shape[-1] == 1 else torch.logsumexp(negative, dim=-1)


def cross_entropy(target: Tensor, others: Tensor, sign: Tensor) -> Tensor:
    """Loss of each position [P], from the logsumexp of its negatives.

    With p, the target's softmax probability, it is -log(p) where the target is to be ranked high and -log(1 - p) where
    it is to be ranked low. A position without negatives has loss 0.

    Its gradient for a target to be ranked high is (1 - p) (d others - d target): that of the corrected logQ
    correction (Khrylchenko et al. 2025), which draws the negatives' softmax without the target and weights each
    position by the detached 1 - p. So that form is this loss, as long as the target is no negative of itself and has
    no correction of its own (see scoring.logits); the classic form corrects the target like a draw.

    >>> cross_entropy(target=torch.tensor([2.0]), others=torch.tensor([2.0]), sign=torch.ones(1))  # p = 1/2
    tensor([0.6931])

    Args:
        target: [P] logits of the targets.
        others: [P] logsumexp over the negatives; -inf where there are none.
        sign: [P] 1 where the target is to be ranked high, -1 where low.
    """
    margin = sign * (others - target)
    return F.softplus(margin.masked_fill(others == -torch.inf, -torch.inf))
