"""Scores for tests of losses: from logits that a test writes down, or drawn."""

import math

import torch
from torch import Tensor

from twotower.model.scoring import Scores


def scores_of(target: Tensor, negative: Tensor, sign: float = 1.0, log_q: Tensor | None = None) -> Scores:
    """Scores whose similarities are target [P] and negative [P, N]; -inf marks the negative that is the target."""
    absent = negative == -math.inf
    assert (absent.sum(1) <= 1).all()
    hit = torch.where(absent.any(1), absent.int().argmax(1), -1)
    user = torch.eye(len(target), dtype=target.dtype)
    log_q = torch.zeros(negative.shape[1], dtype=target.dtype) if log_q is None else log_q
    vectors = negative.masked_fill(absent, 7.0).T  # what is masked must not matter
    return Scores(user, torch.diag(target), vectors, log_q, hit, torch.full_like(target, sign), 1.0)


def drawn_scores(
    positions: int, negatives: int, dim: int = 5, seed: int = 0, dtype: torch.dtype = torch.double
) -> Scores:
    """Scores with everything in them: log_q, hits in about half of the rows, both signs, a temperature, shifts."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=dtype).requires_grad_()

    hit = torch.randint(-negatives, negatives, (positions,), generator=random).clamp(min=-1)
    sign = torch.randint(0, 2, (positions,), generator=random).to(dtype) * 2 - 1
    log_q = -3 * torch.rand(negatives, generator=random, dtype=dtype)
    shifts = torch.randn(positions + negatives, generator=random, dtype=dtype).split([positions, negatives])
    vectors = normal(positions, dim), normal(positions, dim), normal(negatives, dim)
    return Scores(*vectors, log_q, hit, sign, 0.4, target_shift=shifts[0], negative_shift=shifts[1])


def naive_logits(scores: Scores, p: int, corrected: bool = True) -> tuple[float, list[float]]:
    """Position p's logit of the target, and those of its negatives without its own target, number by number."""

    def dot(a: Tensor, b: Tensor) -> float:
        return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / scores.temperature

    def shift(values: Tensor | float, place: int) -> float:
        return values[place].item() if isinstance(values, Tensor) else values

    kept = [n for n in range(len(scores.log_q)) if n != scores.hit[p].item()]
    negative = [
        dot(scores.user[p], scores.negative_vector[n])
        - corrected * scores.log_q[n].item()
        - shift(scores.negative_shift, n)
        for n in kept
    ]
    return dot(scores.user[p], scores.target_vector[p]) - shift(scores.target_shift, p), negative


def gradients(loss: Tensor, scores: Scores) -> tuple[Tensor, ...]:
    """Of the positions' costs, each with another weight."""
    weight = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype)
    return torch.autograd.grad((weight * loss).sum(), (scores.user, scores.target_vector, scores.negative_vector))
