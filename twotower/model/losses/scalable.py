"""Scalable cross-entropy: softmax within buckets of similar users and items.

Shapes: P target positions, N negatives, D dim, H buckets, X positions and Y items of a bucket.
"""

import torch
from torch import Tensor

from twotower.model.history_scores import knows_pointer, taken_out, with_history
from twotower.model.losses.cross_entropy import cross_entropy, log_sum_exp
from twotower.model.memory_costs import COPIES, memory_cost
from twotower.model.scoring import Scores, at_least_float32, take_out, target_logit


def _bucket_logits(positions: int, negatives: int, buckets: int, bucket_positions: int, bucket_items: int) -> int:
    return COPIES * buckets * bucket_positions * bucket_items


@knows_pointer
@memory_cost(_bucket_logits)
def scalable_cross_entropy(scores: Scores, buckets: int, bucket_positions: int, bucket_items: int) -> Tensor:
    """Cross-entropy [P] of each position among the negatives of its best bucket (Mezentsev et al. 2024).

    A bucket is a random mixture of the step's user vectors, with the positions and the negatives that are most similar
    to it, where the softmax has its largest terms. Of a position's buckets the one with the largest sum counts; a
    position without a bucket has loss 0 in this step. Made for the whole catalogue as negatives: H X Y logits instead
    of P V, and H V similarities without gradient. Buckets are drawn from torch's global generator and from the
    process's positions alone, so several processes do not give exactly what one gives.

    >>> one = torch.ones(1, 1)
    >>> scores = Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), 1.0)
    >>> scalable_cross_entropy(scores, buckets=1, bucket_positions=1, bucket_items=1)
    tensor([0.1269])

    Args:
        buckets: H.
        bucket_positions: X; H X should be several times P, so that few positions are in no bucket.
        bucket_items: Y.
    """
    user, negative = scores.user, scores.negative_vector
    with torch.no_grad():
        centre = torch.randn(buckets, len(user), dtype=user.dtype, device=user.device) @ user  # [H, D]
        position = (centre @ user.T).topk(min(bucket_positions, len(user)), sorted=False).indices  # [H, X]
        item = (centre @ negative.T).topk(min(bucket_items, len(negative)), sorted=False).indices  # [H, Y]
    similarity = at_least_float32(user[position] @ negative[item].mT)  # [H, X, Y]
    logit = similarity / scores.temperature - (scores.log_q + scores.negative_shift)[item][:, None]
    place = item.new_full((buckets, len(negative)), -1)  # of each negative in a bucket
    place.scatter_(1, item, torch.arange(item.shape[1], device=item.device).expand_as(item))
    column = taken_out(scores.hit, scores.history)[position]  # [H, X, K]
    take_out(logit, place.gather(1, column.clamp(min=0).flatten(1)).view_as(column).masked_fill(column < 0, -1))
    in_bucket = log_sum_exp(logit)  # [H, X]
    nothing = in_bucket.new_full((len(user),), -torch.inf)
    others = nothing.scatter_reduce(0, position.flatten(), in_bucket.flatten(), "amax")
    target, total = with_history(scores.history, target_logit(scores), others)
    return cross_entropy(target, torch.where(torch.isneginf(others), others, total), scores.sign)
