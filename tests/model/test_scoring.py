"""Scores to logits, and what training on them amounts to: the full softmax."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.losses.softmax import softmax
from twotower.model.negatives import CatalogueNegatives, MixtureNegatives, Negatives
from twotower.model.scoring import Logits, Scores, accidental_hits, first_dimensions, logits

TEMPERATURE = 0.25
SAMPLERS = [(4, True, {}), (4, False, {}), (0, True, {}), (1, True, {"popularity": 2, "queue": 3})]


def scores_of(user: Tensor, items: Tensor, target: Tensor, negatives: Negatives) -> Scores:
    """Scores from a table of items [V + 1, D]."""
    hit, sign = accidental_hits(target, negatives.ids), torch.ones(len(target))
    return Scores(user, items[target], items[negatives.ids], negatives.log_q, hit, sign, TEMPERATURE)


def logits_of(user: Tensor, items: Tensor, target: Tensor, negatives: Negatives) -> Logits:
    return logits(scores_of(user, items, target, negatives))


def skewed_counts(num_items: int) -> Tensor:
    return torch.cat([torch.zeros(1), (1000 / torch.arange(1, num_items + 1)).ceil()]).long()


def test_temperature_comes_before_the_correction() -> None:
    user, log_q = torch.tensor([[1.0, 0.0]]), torch.tensor([math.log(0.5)])
    target, negative = torch.tensor([[0.8, 0.6]]), torch.tensor([[0.6, 0.8]])
    scores = Scores(user, target, negative, log_q, torch.tensor([-1]), torch.tensor([-1.0]), 0.2)
    result = logits(scores)
    assert result.target.tolist() == pytest.approx([4.0])
    assert result.sign.tolist() == [-1.0], "handed on, and no part of the logits"
    assert result.negative.tolist() == [pytest.approx([3.0 + math.log(2)])]


def test_logits_equal_a_naive_loop_and_a_target_is_never_its_own_negative() -> None:
    torch.manual_seed(0)
    items = torch.randn(13, 5)
    for in_batch in (True, False):
        negatives_of = MixtureNegatives(skewed_counts(12), 6, in_batch)
        for _ in range(20):
            user, target = torch.randn(7, 5), torch.randint(1, 13, (7,))
            negatives = negatives_of(target)
            result = logits_of(user, items, target, negatives)
            for p in range(7):
                similarity = sum(user[p, d].item() * items[target[p], d].item() for d in range(5))
                assert result.target[p].item() == pytest.approx(similarity / TEMPERATURE, abs=1e-4)
                for n, item in enumerate(negatives.ids.tolist()):
                    similarity = sum(user[p, d].item() * items[item, d].item() for d in range(5))
                    expected = similarity / TEMPERATURE - negatives.log_q[n].item()
                    if item == target[p].item():
                        assert result.negative[p, n].item() == -math.inf
                    else:
                        assert result.negative[p, n].item() == pytest.approx(expected, abs=1e-4)


def test_a_position_whose_only_negative_is_its_target_costs_and_moves_nothing() -> None:
    user = torch.randn(3, 4, requires_grad=True)
    items = torch.randn(6, 4, requires_grad=True)
    target = torch.tensor([5, 5, 5])
    negatives = MixtureNegatives(torch.tensor([0, 1, 1, 1, 1, 9]), 0, True)(target)
    loss = softmax(scores_of(user, items, target, negatives))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0, 0.0]
    assert user.grad is not None
    assert items.grad is not None
    assert not user.grad.any()
    assert not items.grad.any()


def test_a_lonely_position_spoils_no_other() -> None:
    """One step with one position only, and one where a single item is both targets and negatives."""
    user = torch.randn(1, 4, requires_grad=True)
    items = torch.randn(6, 4, requires_grad=True)
    target = torch.tensor([2])
    negatives = MixtureNegatives(torch.tensor([0, 1, 1, 1, 1, 9]), 0, True)(target)
    loss = softmax(scores_of(user, items, target, negatives))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert torch.isfinite(user.grad).all()
    assert torch.isfinite(items.grad).all()


def test_with_every_item_as_negative_the_loss_is_cross_entropy_in_value_and_gradient() -> None:
    torch.manual_seed(1)
    user = torch.randn(20, 6, dtype=torch.double, requires_grad=True)
    items = torch.randn(31, 6, dtype=torch.double, requires_grad=True)
    target = torch.randint(1, 31, (20,))
    negatives = CatalogueNegatives(torch.ones(31)).double()(target)
    loss = softmax(scores_of(user, items, target, negatives))
    computed = torch.autograd.grad(loss.mean(), (user, items))
    expected = F.cross_entropy(user @ items[1:].T / TEMPERATURE, target - 1, reduction="none")
    reference = torch.autograd.grad(expected.mean(), (user, items))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for one, other in zip(computed, reference, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("uniform", "in_batch", "more"), SAMPLERS)
def test_the_estimated_sum_over_the_catalogue_is_unbiased(uniform: int, in_batch: bool, more: dict[str, int]) -> None:
    """exp(target) + sum exp(negatives), averaged over many steps, is the exact sum over the catalogue."""
    torch.manual_seed(2)
    num_items, positions, repeats, first_target = 8, 4, 4000, 3
    counts = torch.tensor([0, 9, 4, 3, 3, 2, 2, 1, 1])  # in-batch alone needs every item to be a target at times
    user = torch.randn(1, 3).expand(positions, -1)
    items = torch.randn(num_items + 1, 3) * 0.5
    exact = (user[0] @ items[1:].T / TEMPERATURE).exp().sum().item()
    negatives_of = MixtureNegatives(counts, uniform, in_batch, **more)
    estimates = []
    for _ in range(repeats):
        if more:  # what the queue holds was drawn, like any target of a step before
            negatives_of(torch.multinomial(counts.float(), positions, replacement=True))
        target = torch.multinomial(counts.float(), positions, replacement=True)
        target[0] = first_target
        result = logits_of(user, items, target, negatives_of(target))
        estimates.append((result.target[0].exp() + result.negative[0].exp().sum()).item())
    sample = torch.tensor(estimates, dtype=torch.double)
    deviation = (sample.std() / math.sqrt(repeats)).item()
    assert deviation < 0.07 * exact, "too few repeats to tell"
    assert abs(sample.mean().item() - exact) < 4.5 * deviation


@cache
def relative_error(uniform: int, corrected: bool, popularity: int = 0, queue: int = 0, repeats: int = 300) -> float:
    """How far one position's mean sampled gradient is from the full softmax's.

    Compared: the items' pull on the user vector, and its pull on the 30 most popular items and on the others.
    """
    torch.manual_seed(3)
    num_items, positions = 1500, 32
    counts = skewed_counts(num_items)
    user = torch.randn(1, 4, requires_grad=True)
    items = (torch.randn(num_items + 1, 4) * 0.7).requires_grad_()
    first_target = torch.tensor([5])

    def pulls(loss: Tensor) -> Tensor:
        by_user, by_item = torch.autograd.grad(loss.sum(), (user, items))
        by_item[first_target] = 0
        return torch.cat([(by_user + items[first_target].detach())[0], by_item[1:31].sum(0), by_item[31:].sum(0)])

    expected = pulls(F.cross_entropy(user @ items[1:].T, first_target - 1))
    negatives_of = MixtureNegatives(counts, uniform, True, popularity, queue=queue)
    total = torch.zeros_like(expected)
    for _ in range(repeats):
        others = torch.multinomial(counts.float(), positions - 1, replacement=True)
        if queue:
            negatives_of(torch.multinomial(counts.float(), queue, replacement=True))
        negatives = negatives_of(torch.cat([first_target, others]))
        if not corrected:
            negatives = Negatives(negatives.ids, torch.zeros_like(negatives.log_q))
        scores = scores_of(user, items, first_target, negatives)._replace(temperature=1.0)
        total += pulls(softmax(scores))
    return ((total / repeats - expected).norm() / expected.norm()).item()


def test_the_corrected_gradient_converges_to_the_full_softmax_gradient() -> None:
    errors = [relative_error(uniform, corrected=True) for uniform in (2, 16, 128)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_a_mixture_of_all_sources_comes_as_close() -> None:
    """Half of the draws by popularity, and a queue."""
    mixed = relative_error(64, corrected=True, popularity=64, queue=64)
    assert mixed < 0.03
    assert relative_error(64, corrected=False, popularity=64, queue=64) > 4 * mixed


@pytest.mark.slow
def test_without_the_correction_the_gradient_is_several_times_as_wrong() -> None:
    """The control: what the test above is able to see."""
    for uniform in (2, 16, 128):
        assert relative_error(uniform, corrected=False) > 4 * relative_error(uniform, corrected=True)
    assert relative_error(128, corrected=False) > 0.05


def test_first_dimensions_are_cut_and_of_length_one_again() -> None:
    user, target, negative = torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[0.0, 2.0, 1.0]]), torch.eye(3)[:2]
    scores = Scores(user, target, negative, torch.zeros(2), torch.tensor([-1]), torch.ones(1), 0.5)
    result = logits(first_dimensions(scores, 2, normalize=True))
    assert result.target.tolist() == pytest.approx([0.8 / 0.5])
    assert result.negative[0].tolist() == pytest.approx([0.6 / 0.5, 0.8 / 0.5])
    result = logits(first_dimensions(scores, 2, normalize=False))
    assert result.target.tolist() == [8.0 / 0.5]
    assert result.negative[0].tolist() == [3.0 / 0.5, 4.0 / 0.5]
