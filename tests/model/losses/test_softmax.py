"""Softmax and the losses that equal it when nothing is left out: chunks of any size, top k of all, one bucket."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from made_scores import drawn_scores, gradients, naive_logits, scores_of
from torch import Tensor

from twotower.model.losses.scalable import scalable_cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.losses.top_k import top_k_softmax
from twotower.model.scoring import Scores

Loss = Callable[[Scores], Tensor]
EXACT: dict[str, Loss] = {
    "softmax": softmax,
    "chunks of 1": partial(softmax, chunk_items=1),
    "chunks of 2": partial(softmax, chunk_items=2),
    "one chunk": partial(softmax, chunk_items=100),
    "top 100": partial(top_k_softmax, k=100),
    "one bucket": partial(scalable_cross_entropy, buckets=1, bucket_positions=100, bucket_items=100),
    "three buckets": partial(scalable_cross_entropy, buckets=3, bucket_positions=100, bucket_items=100),
}
every_exact_loss = pytest.mark.parametrize("loss", EXACT.values(), ids=EXACT)


@every_exact_loss
def test_hand_worked_logits(loss: Loss) -> None:
    target = torch.tensor([0.0, math.log(2), 1.0])
    negative = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [-math.inf, 1.0]])
    # 1 of 3; 2 of 2 + 1 + 3; e of e + e
    expected = [math.log(3), math.log(3), math.log(2)]
    assert loss(scores_of(target, negative)).tolist() == pytest.approx(expected, abs=1e-6)
    log_q = torch.tensor([math.log(1 / 2), math.log(1 / 4)])
    # 1 of 1 + 2 + 4; 2 of 2 + 2 + 12; e of e + 4 e
    expected = [math.log(7), math.log(8), math.log(5)]
    assert loss(scores_of(target, negative, log_q=log_q)).tolist() == pytest.approx(expected, abs=1e-6)


@every_exact_loss
def test_a_target_to_be_ranked_low_costs_what_its_complement_is_unlikely(loss: Loss) -> None:
    target = torch.tensor([0.0, math.log(2), 1.0])
    negative = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [-math.inf, 1.0]])
    shares = [1 / 3, 2 / 6, 1 / 2]
    scores = scores_of(target, negative, sign=-1.0)
    assert loss(scores).tolist() == pytest.approx([-math.log(1 - share) for share in shares], abs=1e-6)
    mixed = scores._replace(sign=torch.tensor([1.0, -1.0, 1.0]))
    assert loss(mixed).tolist() == pytest.approx([math.log(3), math.log(3 / 2), math.log(2)], abs=1e-6)


@every_exact_loss
def test_values_equal_a_naive_loop_and_gradients_what_the_shares_say(loss: Loss) -> None:
    """d -log(p) / d logit = share - 1 at the target; d -log(1 - p) = p there, and less of each negative's share."""
    scores = drawn_scores(9, 7)
    costs = loss(scores)
    by_user, by_target, by_negative = gradients(costs, scores)
    expected_user, expected_target = torch.zeros_like(by_user), torch.zeros_like(by_target)
    expected_negative = torch.zeros_like(by_negative)
    weights = torch.linspace(0.5, 2, 9).tolist()
    for p in range(9):
        target_logit, others = naive_logits(scores, p)
        total = sum(map(math.exp, others))
        share = math.exp(target_logit) / (math.exp(target_logit) + total)
        high = scores.sign[p].item() > 0
        assert costs[p].item() == pytest.approx(-math.log(share if high else 1 - share), rel=1e-9)
        change = (share - 1 if high else share) * weights[p] / scores.temperature
        expected_user[p] += change * scores.target_vector[p].detach()
        expected_target[p] += change * scores.user[p].detach()
        kept = [n for n in range(7) if n != scores.hit[p].item()]
        for n, logit in zip(kept, others, strict=True):
            part = -change * math.exp(logit) / total
            expected_user[p] += part * scores.negative_vector[n].detach()
            expected_negative[n] += part * scores.user[p].detach()
    torch.testing.assert_close(by_user, expected_user)
    torch.testing.assert_close(by_target, expected_target)
    torch.testing.assert_close(by_negative, expected_negative)


@every_exact_loss
@pytest.mark.parametrize(
    ("sign", "values", "slopes"),
    [(1.0, [0.0, 1000.0, math.exp(-30)], [0.0, -1.0, -math.exp(-30)]), (-1.0, [900.0, 0.0, 30.0], [1.0, 0.0, 1.0])],
)
def test_extreme_logits_neither_overflow_nor_vanish(loss: Loss, sign: float, values: list, slopes: list) -> None:
    target = torch.tensor([500.0, -500.0, 30.0])
    scores = scores_of(target, torch.tensor([[-500.0, -400.0], [500.0, 400.0], [0.0, -math.inf]]), sign)
    scores.target_vector.requires_grad_()
    costs = loss(scores)
    assert costs.tolist() == pytest.approx(values, rel=1e-6)
    costs.sum().backward()
    assert scores.target_vector.grad.diag().tolist() == pytest.approx(slopes, rel=1e-6)


@every_exact_loss
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_negative_no_cost(loss: Loss, sign: float) -> None:
    """Two positions whose only negative is their own target, beside one that has a negative."""
    scores = drawn_scores(3, 1)._replace(hit=torch.tensor([0, -1, 0]), sign=torch.full((3,), sign, dtype=torch.double))
    costs = loss(scores)
    by_user, by_target, by_negative = gradients(costs, scores)
    assert [c > 0 for c in costs.tolist()] == [False, True, False]
    for gradient in (by_user, by_target):
        assert gradient.any(1).tolist() == [False, True, False]
        assert gradient.isfinite().all()
    of_position = ("user", "target_vector", "hit", "sign", "target_shift")
    alone = scores._replace(**{k: getattr(scores, k)[1:2] for k in of_position})
    assert loss(alone).item() == pytest.approx(costs[1].item())
    assert by_negative.isfinite().all()


@every_exact_loss
def test_no_position_no_loss(loss: Loss) -> None:
    scores = drawn_scores(0, 5)
    assert loss(scores).shape == (0,)
    assert not gradients(loss(scores), scores)[2].any()


def test_softmax_has_the_gradient_of_the_corrected_correction() -> None:
    """Khrylchenko et al. 2025, as published: minus (1 - p), detached, times the log share of the target among the
    negatives' corrected sum, the target itself left out of that. Here softmax's value differs, its gradient does not.
    """
    scores = drawn_scores(8, 6)
    scores = scores._replace(sign=torch.ones(8, dtype=torch.double))
    target_logit = (scores.user * scores.target_vector).sum(1) / scores.temperature - scores.target_shift
    others = scores.user @ scores.negative_vector.T / scores.temperature - scores.log_q - scores.negative_shift
    others = others.masked_fill(F.one_hot(scores.hit.clamp(min=0), 6).bool() & (scores.hit >= 0)[:, None], -torch.inf)
    share = target_logit.exp() / (target_logit.exp() + others.exp().sum(1))
    published = -(1 - share).detach() * (target_logit - others.exp().sum(1).log())
    computed = gradients(softmax(scores), scores)
    for mine, reference in zip(computed, gradients(published, scores), strict=True):
        torch.testing.assert_close(mine, reference)
