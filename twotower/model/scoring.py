"""From vectors to logits: temperature, then logQ correction, then what is taken out, in this order.

Shapes: P target positions, N negatives, D embedding dim.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.history_scores import HistoryScores, taken_out


class Scores(NamedTuple):
    """Input of a loss: each position's user and target, and the negatives that all positions share.

    >>> one = torch.ones(1, 1)
    >>> scores = Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), temperature=0.5)
    >>> logits(scores).target, logits(scores).negative
    (tensor([2.]), tensor([[-2.]]))
    """

    user: Tensor  # [P, D]
    target_vector: Tensor  # [P, D]
    negative_vector: Tensor  # [N, D]
    log_q: Tensor  # [N] log-probability that a position with another target has the item among its negatives
    hit: Tensor  # [P] column of the position's own target among the negatives, or -1
    sign: Tensor  # [P] 1 where the target is to be ranked high, -1 where low
    temperature: float  # divides similarities
    history: HistoryScores | None = None  # what the pointer adds
    target_shift: Tensor | float = 0.0  # [P] taken from logits: see data.popularity_shift
    negative_shift: Tensor | float = 0.0  # [N] likewise


class Logits(NamedTuple):
    """The dense logits of a step."""

    target: Tensor  # [P]
    negative: Tensor  # [P, N], -inf where the negative is taken out
    sign: Tensor  # [P]


def accidental_hits(items: Tensor, negative_ids: Tensor) -> Tensor:
    """Items of any shape and [N] distinct, ascending ids -> each item's column among them, or -1."""
    column = torch.searchsorted(negative_ids, items.contiguous()).clamp(max=len(negative_ids) - 1)
    return torch.where(negative_ids[column] == items, column, -1)


def logits(scores: Scores) -> Logits:
    """Compute the dense logits.

    A negative's logit is its similarity / temperature - log_q - its shift; one that is the target, or of the history,
    is taken out. The target has no log_q: it is in its own softmax with certainty. So exp(target) + sum exp(negative)
    is an unbiased estimate of the full softmax's sum over the catalogue (Horvitz & Thompson 1952; for retrieval
    Bengio & Senécal 2008, Yi et al. 2019, and on the target's term Khrylchenko et al. 2025, arXiv:2507.09331).
    """
    negative = torch.addmm(
        -scores.log_q - scores.negative_shift, scores.user, scores.negative_vector.T, alpha=1 / scores.temperature
    )
    negative = at_least_float32(negative)
    take_out(negative, taken_out(scores.hit, scores.history))
    return Logits(target_logit(scores), negative, scores.sign)


def target_logit(scores: Scores) -> Tensor:
    """[P] the logits of the targets, without logQ correction."""
    return at_least_float32((scores.user * scores.target_vector).sum(-1) / scores.temperature) - scores.target_shift


def take_out(negative: Tensor, column: Tensor) -> None:
    """Set negative [..., n] to -inf in each row's columns [..., K], in place; a column outside of it means none."""
    inside = (column >= 0) & (column < negative.shape[-1])
    # Added, not assigned: that needs neither the positions of the mask (a GPU synchronisation) nor their gradient.
    value = torch.zeros_like(column, dtype=negative.dtype).masked_fill_(inside, -torch.inf)
    negative.scatter_add_(-1, column.clamp(0, negative.shape[-1] - 1), value)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32, for exact sums of exponentials; other types stay."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def truncate(vectors: Tensor, dim: int, normalize: bool) -> Tensor:
    """[..., D] -> [..., dim] first dimensions; scaled to length one again if `normalize`."""
    return F.normalize(vectors[..., :dim], dim=-1) if normalize else vectors[..., :dim]


def first_dimensions(scores: Scores, dim: int, normalize: bool) -> Scores:
    """Scores from the first `dim` dimensions alone."""
    names = ("user", "target_vector", "negative_vector")
    vectors: dict[str, Any] = {name: truncate(getattr(scores, name), dim, normalize) for name in names}
    return scores._replace(**vectors)
