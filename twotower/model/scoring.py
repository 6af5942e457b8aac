"""From vectors to logits: temperature, then logQ correction, then accidental hits, in this order.

Shapes: P target positions, N negatives, D embedding dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.model.negatives import Negatives


class Logits(NamedTuple):
    """What a loss sees: each position's target against the step's negatives."""

    target: Tensor  # [P]
    negative: Tensor  # [P, N], -inf where the negative is the position's own target
    sign: Tensor  # [P] 1 where the target is to be ranked high, -1 where low


def score(
    user: Tensor,
    target_vector: Tensor,
    negative_vector: Tensor,
    target: Tensor,
    sign: Tensor,
    negatives: Negatives,
    temperature: float,
) -> Logits:
    """Logits of targets and shared negatives.

    A negative's logit is its similarity / temperature - log_q; a negative that equals the target is taken out.
    The target itself is not corrected: it is in its own softmax with certainty. So exp(target) + sum exp(negative)
    is an unbiased estimate of the full softmax's sum over the catalogue (Horvitz & Thompson 1952; for retrieval
    Bengio & Senécal 2008, Yi et al. 2019, and on the target's term Khrylchenko et al. 2025).

    Args:
        user: [P, D].
        target_vector: [P, D].
        negative_vector: [N, D].
        target: [P] item_index of the targets.
        sign: [P] handed on to the loss.
        negatives: ids [N], distinct and ascending, with their log_q.
        temperature: divides similarities.
    """
    target_logit = (user * target_vector).sum(-1) / temperature
    negative_logit = torch.addmm(-negatives.log_q, user, negative_vector.T, alpha=1 / temperature)
    column = torch.searchsorted(negatives.ids, target).clamp(max=len(negatives.ids) - 1)
    hit = (negatives.ids[column] == target).nonzero().squeeze(1)
    negative_logit[hit, column[hit]] = -torch.inf
    return Logits(target_logit, negative_logit, sign)
