"""Rank of the target in a matrix of scores, as baselines give them. Shapes: Q queries, V items."""

import torch
from torch import Tensor

from twotower.metrics.ranks import Ranks, slices, without_impossible

COMPARED_AT_ONCE = 1 << 18  # elements of a score matrix: 1 MiB, so that both comparisons find them in a cache


def rank(scores: Tensor, target: Tensor) -> Ranks:
    """Rank targets among scores of the whole catalogue.

    Args:
        scores: [Q, V]; column c belongs to item_index c + 1.
        target: [Q] item_index; where its score is -inf it is not ranked, and IMPOSSIBLE items are before it.
    """
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    target_score = scores.gather(1, target[:, None] - 1)
    rows = max(1, COMPARED_AT_ONCE // scores.shape[1])
    memory = scores.new_empty(min(rows, len(scores)), scores.shape[1])
    for part in slices(len(scores), rows):
        flags = memory[: part.stop - part.start]
        below = _count(torch.lt(scores[part], target_score[part], out=flags))
        not_better = _count(torch.le(scores[part], target_score[part], out=flags))
        ranks.better[part] = scores.shape[1] - not_better  # so a NaN counts as better, and never improves a rank
        ranks.tied[part] = not_better - below
    return without_impossible(*ranks, target_score[:, 0])


def _count(flags: Tensor) -> Tensor:
    """[Q, V] zeros and ones -> [Q] int64. Comparing and adding floats is several times faster than booleans."""
    exact = torch.float32 if flags.shape[1] <= 1 << 24 else torch.float64
    return flags.sum(1, dtype=exact).long()
