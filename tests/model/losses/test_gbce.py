"""gBCE against the paper's formula, and its calibration."""

import math

import pytest
import torch
from made_scores import drawn_scores, gradients, naive_logits, scores_of

from twotower.model.losses.gbce import gbce


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_the_formula_of_the_paper(t: float) -> None:
    """V - 1 = 50 other items, of which 10 are drawn: the sampling rate is 1/5."""
    rate = 10 / 50
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    scores = drawn_scores(7, 10)._replace(log_q=torch.full((10,), math.log(rate), dtype=torch.double))
    costs = gbce(scores, t)
    for p in range(7):
        target_logit, others = naive_logits(scores, p, corrected=False)
        positive = -math.log(sigmoid(target_logit) ** beta) - sum(math.log(1 - sigmoid(x)) for x in others)
        expected = positive if scores.sign[p] > 0 else -math.log(1 - sigmoid(target_logit))
        assert costs[p].item() == pytest.approx(expected / (len(others) + 1)), p


def test_hand_worked_and_extreme() -> None:
    """Every item is a negative: t makes no difference. log 2 each at logit 0; a hit is not counted."""
    target = torch.tensor([0.0, 0.0, -1000.0])
    negative = torch.tensor([[0.0, 0.0], [0.0, -math.inf], [1000.0, -1000.0]])
    scores = scores_of(target, negative)
    for t in (0.0, 0.75):
        assert gbce(scores, t).tolist() == pytest.approx([math.log(2), math.log(2), 2000 / 3])
    scores.target_vector.requires_grad_()
    gbce(scores, 0.75).sum().backward()
    assert scores.target_vector.grad.diag().tolist() == pytest.approx([-0.5 / 3, -0.5 / 2, -1 / 3])


def test_the_rate_of_a_mixture_is_negatives_by_what_they_stand_for() -> None:
    """Negatives with probability 1, 1/2 and 1/4 stand for 1 + 2 + 4 items: 3 of 7."""
    log_q = torch.tensor([1.0, 0.5, 0.25]).log()
    cost = gbce(scores_of(torch.zeros(1), torch.full((1, 3), -1000.0), log_q=log_q), t=0.5)
    assert cost.item() == pytest.approx((1 - 0.5 * (1 - 3 / 7)) * math.log(2) / 4)


def test_full_calibration_makes_probabilities_of_few_negatives_those_of_all() -> None:
    """One user, target item 0 of 5 with true share .4, others .15: the scores of least cost, from all items and from
    one negative at a time (rate 1/4), are the same with t = 1, and larger without calibration."""
    share = [0.4, 0.15, 0.15, 0.15, 0.15]

    def best_score(negatives: int, t: float) -> float:
        score = torch.zeros(5, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([score], max_iter=200, tolerance_grad=1e-10)
        sets = [[i] for i in range(5)] if negatives == 1 else [list(range(5))]

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), dtype=torch.double)
            for target in range(5):
                for ids in sets:
                    ids = [i for i in ids if i != target]
                    if ids:
                        rate = torch.full((len(ids),), math.log(len(ids) / 4), dtype=torch.double)
                        scores = scores_of(score[target][None], score[ids][None], log_q=rate)
                        total = total + share[target] * gbce(scores, t).sum() * (1 + len(ids)) / len(sets)
            total.backward()
            return total

        optimizer.step(closure)
        return score[0].item()

    assert best_score(1, t=1.0) == pytest.approx(best_score(4, t=0.0), abs=1e-3)
    assert best_score(1, t=0.0) > best_score(4, t=0.0) + 1.0


def test_a_position_in_the_dark_stays_finite() -> None:
    scores = drawn_scores(3, 1)._replace(hit=torch.tensor([0, 0, -1]))
    assert all(gradient.isfinite().all() for gradient in gradients(gbce(scores, 0.75), scores))
    assert gbce(drawn_scores(0, 4), 0.75).shape == (0,)
