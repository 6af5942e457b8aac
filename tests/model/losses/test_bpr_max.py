"""BPR-max against the paper's formula."""

import math

import pytest
import torch
from made_scores import drawn_scores, gradients, naive_logits, scores_of

from twotower.model.losses.bpr_max import bpr_max


@pytest.mark.parametrize("regularization", [0.0, 0.7])
def test_a_naive_loop(regularization: float) -> None:
    scores = drawn_scores(9, 7)
    costs = bpr_max(scores, regularization)
    for p in range(9):
        target_logit, corrected = naive_logits(scores, p)
        _, plain = naive_logits(scores, p, corrected=False)
        total = sum(map(math.exp, corrected))
        weight = [math.exp(x) / total for x in corrected]
        sign = scores.sign[p].item()
        chance = sum(w / (1 + math.exp(-sign * (target_logit - x))) for w, x in zip(weight, plain, strict=True))
        squares = sum(w * x * x for w, x in zip(weight, plain, strict=True))
        assert costs[p].item() == pytest.approx(-math.log(chance) + regularization * squares, rel=1e-9), p


def test_hand_worked_logits() -> None:
    """Equal scores: each negative is beaten half of the time. Negatives 0 and log 3 weigh 1/4 and 3/4."""
    negative = torch.tensor([[2.0, 2.0], [0.0, math.log(3)], [5.0, -math.inf]])
    costs = bpr_max(scores_of(torch.tensor([2.0, math.log(3), 5.0]), negative), 0.0)
    assert costs.tolist() == pytest.approx([math.log(2), -math.log(1 / 4 * 3 / 4 + 3 / 4 * 1 / 2), math.log(2)])
    squares = bpr_max(scores_of(torch.tensor([2.0, math.log(3), 5.0]), negative), 1.0) - costs
    assert squares.tolist() == pytest.approx([4.0, 3 / 4 * math.log(3) ** 2, 25.0])


def test_extreme_logits_and_lonely_positions_stay_finite() -> None:
    scores = scores_of(torch.tensor([-500.0, 500.0]), torch.tensor([[500.0, 0.0], [-500.0, 0.0]]))
    assert bpr_max(scores, 0.0).tolist() == pytest.approx([1000.0 - math.log(2), 0.0])
    for sign in (1.0, -1.0):
        scores = drawn_scores(3, 1)._replace(hit=torch.tensor([0, -1, 0]), sign=torch.full((3,), sign).double())
        costs = bpr_max(scores, 1.0)
        assert costs[0].item() == costs[2].item() == 0.0
        assert costs[1].item() > 0
        by_user, by_target, by_negative = gradients(costs, scores)
        assert by_user.any(1).tolist() == [False, True, False]
        assert by_target.any(1).tolist() == [False, True, False]
        assert by_negative.isfinite().all()
    assert bpr_max(drawn_scores(0, 4), 1.0).shape == (0,)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradcheck(sign: float) -> None:
    scores = drawn_scores(4, 5, dim=3)._replace(sign=torch.full((4,), sign, dtype=torch.double))

    def loss(user: torch.Tensor, target: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return bpr_max(scores._replace(user=user, target_vector=target, negative_vector=negative), 0.3)

    assert torch.autograd.gradcheck(loss, (scores.user, scores.target_vector, scores.negative_vector))
