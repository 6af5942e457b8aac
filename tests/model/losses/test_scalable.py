"""Scalable cross-entropy: buckets by a naive loop, and what they amount to."""

import math

import pytest
import torch
from made_scores import drawn_scores, gradients, naive_logits

from twotower.model.losses.scalable import scalable_cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.scoring import Scores


def test_buckets_by_hand() -> None:
    """Fill the buckets one dot product at a time; the best bucket of each position counts."""
    positions, negatives, buckets, x, y = 7, 11, 3, 3, 4
    scores = drawn_scores(positions, negatives)
    torch.manual_seed(5)
    costs = scalable_cross_entropy(scores, buckets, x, y)
    torch.manual_seed(5)
    mixture = torch.randn(buckets, positions, dtype=torch.double).tolist()
    user, vectors = scores.user.tolist(), scores.negative_vector.tolist()
    best = [-math.inf] * positions
    for weights in mixture:
        centre = [sum(w * u[d] for w, u in zip(weights, user, strict=True)) for d in range(5)]

        def near(vector: list[float], centre: list[float] = centre) -> float:
            return sum(a * b for a, b in zip(centre, vector, strict=True))

        chosen = sorted(range(negatives), key=lambda n: -near(vectors[n]))[:y]
        for p in sorted(range(positions), key=lambda p: -near(user[p]))[:x]:
            kept = [n for n in range(negatives) if n != scores.hit[p].item()]
            logits = dict(zip(kept, naive_logits(scores, p)[1], strict=True))
            best[p] = max(best[p], math.log(sum(math.exp(logits[n]) for n in chosen if n in logits)))
    assert min(best) == -math.inf, "a position in no bucket"
    for p in range(positions):
        margin = scores.sign[p].item() * (best[p] - naive_logits(scores, p)[0])
        expected = math.log1p(math.exp(margin)) if best[p] > -math.inf else 0.0
        assert costs[p].item() == pytest.approx(expected, rel=1e-6), p
    for gradient in gradients(costs, scores):
        assert gradient.isfinite().all()


def test_buckets_find_the_hard_negatives() -> None:
    """Users and items in clusters: a twentieth of the items holds nearly all of the full softmax."""
    torch.manual_seed(0)
    middle = torch.nn.functional.normalize(torch.randn(20, 16), dim=1)
    items = torch.nn.functional.normalize(middle.repeat_interleave(100, 0) + 0.05 * torch.randn(2000, 16), dim=1)
    user = torch.nn.functional.normalize(middle.repeat_interleave(10, 0) + 0.05 * torch.randn(200, 16), dim=1)
    scores = Scores(user, items[::10], items, torch.zeros(2000), torch.arange(0, 2000, 10), torch.ones(200), 0.07)
    exact = softmax(scores)
    near = scalable_cross_entropy(scores, buckets=100, bucket_positions=20, bucket_items=100)
    assert (near <= exact + 1e-5).all()
    assert near.mean() > 0.8 * exact.mean()
    shuffled = scores._replace(user=user[torch.randperm(200)])
    assert scalable_cross_entropy(shuffled, 1, 200, 100).mean() < 0.5 * softmax(shuffled).mean(), "the control"
