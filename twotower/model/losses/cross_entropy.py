"""From logits to the cost of a softmax. Shapes: P target positions, N negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def log_sum_exp(negative: Tensor) -> Tensor:
    """[..., N] -> [...]. A row has one hit at most, so all of it is -inf only where N is 1: torch's gradient is nan."""
    return negative.squeeze(-1) if negative.shape[-1] == 1 else torch.logsumexp(negative, dim=-1)


def cross_entropy(target: Tensor, others: Tensor, sign: Tensor) -> Tensor:
    """Cost of each position, from the log of the summed exponentials of its negatives.

    p being the target's share of the softmax, a position costs -log(p) where the target is to be ranked high, and
    -log(1 - p) where low. A position without any negative costs nothing.

    Its gradient for a target to be ranked high is (1 - p) (d others - d target): that of the corrected logQ
    correction (Khrylchenko et al. 2025), which draws the negatives' softmax without the target and weights each
    position by the detached 1 - p. So that form is this loss, as long as the target is no negative of itself and has
    no correction of its own (see scoring.logits); the classic form corrects the target like a draw.

    Args:
        target: [P] logits of the targets.
        others: [P] logsumexp over the negatives; -inf where there are none.
        sign: [P].
    """
    margin = sign * (others - target)
    return F.softplus(margin.masked_fill(others == -torch.inf, -torch.inf))
