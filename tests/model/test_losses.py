"""Losses as functions of logits."""

import math

import pytest
import torch
from torch import Tensor

from twotower.model.losses import softmax
from twotower.model.scoring import Logits


def logits(target: Tensor, negative: Tensor, sign: float = 1.0) -> Logits:
    return Logits(target, negative, torch.full_like(target, sign))


def test_softmax_of_hand_worked_logits() -> None:
    target = torch.tensor([0.0, math.log(2), 1.0])
    negative = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [-math.inf, 1.0]])
    # 1 of 3; 2 of 2 + 1 + 3; e of e + e
    expected = [math.log(3), math.log(3), math.log(2)]
    assert softmax(logits(target, negative)).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_is_probability_minus_certainty() -> None:
    torch.manual_seed(0)
    target = torch.randn(6, requires_grad=True)
    negative = torch.randn(6, 9, requires_grad=True)
    softmax(logits(target, negative)).sum().backward()
    for p in range(6):
        weights = [math.exp(x) for x in [target[p].item(), *negative[p].tolist()]]
        shares = [w / sum(weights) for w in weights]
        assert target.grad[p].item() == pytest.approx(shares[0] - 1, abs=1e-6)
        assert negative.grad[p].tolist() == pytest.approx(shares[1:], abs=1e-6)


def test_extreme_logits_neither_overflow_nor_vanish() -> None:
    target = torch.tensor([500.0, -500.0, 30.0], requires_grad=True)
    negative = torch.tensor([[-500.0, -400.0], [500.0, 400.0], [0.0, -math.inf]])
    loss = softmax(logits(target, negative))
    assert loss.tolist() == pytest.approx([0.0, 1000.0, math.exp(-30)], rel=1e-6)
    loss.sum().backward()
    assert target.grad.tolist() == pytest.approx([0.0, -1.0, -math.exp(-30)], rel=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_negative_no_cost(sign: float) -> None:
    target = torch.tensor([3.0, -3.0], requires_grad=True)
    loss = softmax(logits(target, torch.full((2, 4), -math.inf), sign))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert target.grad.tolist() == [0.0, 0.0]


def test_no_position_no_loss() -> None:
    assert softmax(logits(torch.empty(0), torch.empty(0, 5))).shape == (0,)


def test_a_target_to_be_ranked_low_costs_what_its_complement_is_unlikely() -> None:
    target = torch.tensor([0.0, math.log(2), 1.0])
    negative = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [-math.inf, 1.0]])
    shares = [1 / 3, 2 / 6, 1 / 2]
    loss = softmax(logits(target, negative, sign=-1.0))
    assert loss.tolist() == pytest.approx([-math.log(1 - share) for share in shares], abs=1e-6)
    mixed = softmax(Logits(target, negative, torch.tensor([1.0, -1.0, 1.0])))
    assert mixed.tolist() == pytest.approx([math.log(3), math.log(3 / 2), math.log(2)], abs=1e-6)


def test_the_gradient_of_a_target_to_be_ranked_low_is_its_probability() -> None:
    """d/dt -log(1 - p) = p; and each negative gains what the target loses, by its share among the negatives."""
    torch.manual_seed(0)
    target = torch.randn(6, requires_grad=True)
    negative = torch.randn(6, 9, requires_grad=True)
    softmax(logits(target, negative, sign=-1.0)).sum().backward()
    for p in range(6):
        weights = [math.exp(x) for x in [target[p].item(), *negative[p].tolist()]]
        share = weights[0] / sum(weights)
        assert target.grad[p].item() == pytest.approx(share, abs=1e-6)
        assert negative.grad[p].tolist() == pytest.approx(
            [-share * w / sum(weights[1:]) for w in weights[1:]], abs=1e-6
        )


def test_extreme_logits_of_targets_to_be_ranked_low_neither_overflow_nor_vanish() -> None:
    target = torch.tensor([500.0, -500.0, -30.0], requires_grad=True)
    negative = torch.tensor([[-500.0, -400.0], [500.0, 400.0], [0.0, -math.inf]])
    loss = softmax(logits(target, negative, sign=-1.0))
    assert loss.tolist() == pytest.approx([900.0, 0.0, math.exp(-30)], rel=1e-6)
    loss.sum().backward()
    assert target.grad.tolist() == pytest.approx([1.0, 0.0, math.exp(-30)], rel=1e-6)
