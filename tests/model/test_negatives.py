"""Negatives: distinct, and with the true probability of being there."""

import math

import pytest
import torch

from twotower.model.negatives import CatalogueNegatives, MixtureNegatives

COUNTS = torch.tensor([0, 40, 20, 10, 10, 5, 5, 10, 0, 0])  # nine items, two of them never a target


def draw_targets(positions: int, first: int | None = None) -> torch.Tensor:
    """Targets as often as COUNTS says; `first` fixes the first position's."""
    target = torch.multinomial(COUNTS.float(), positions, replacement=True)
    if first is not None:
        target[0] = first
    return target


@pytest.mark.parametrize("in_batch", [True, False])
def test_ids_are_distinct_ascending_items(in_batch: bool) -> None:
    torch.manual_seed(0)
    negatives = MixtureNegatives(COUNTS, 5, in_batch)
    for _ in range(50):
        target = draw_targets(6)
        ids, log_q = negatives(target)
        assert (ids.diff() > 0).all()
        assert ids.min() >= 1
        assert ids.max() <= 9
        assert log_q.shape == ids.shape
        assert (log_q <= 0).all()
        assert not in_batch or set(target.tolist()) <= set(ids.tolist())


@pytest.mark.parametrize(("uniform", "in_batch"), [(3, True), (3, False), (0, True)])
@pytest.mark.parametrize("positions", [2, 6])
def test_log_q_is_how_often_a_position_sees_another_item(uniform: int, in_batch: bool, positions: int) -> None:
    """Simulated for the first position, whose own target is known and no draw."""
    torch.manual_seed(1)
    negatives = MixtureNegatives(COUNTS, uniform, in_batch)
    repeats, own = 6000, 2
    seen = torch.zeros(10)
    log_q = torch.full((10,), -math.inf)
    for _ in range(repeats):
        drawn = negatives(draw_targets(positions, first=own))
        seen[drawn.ids] += 1
        log_q[drawn.ids] = drawn.log_q
    for item in range(1, 10):
        if item == own:
            continue
        frequency = seen[item].item() / repeats
        probability = math.exp(log_q[item])
        deviation = math.sqrt(probability * (1 - probability) / repeats)
        assert abs(frequency - probability) <= 4.5 * deviation + 1e-12, f"item {item}: {frequency} {probability}"


def test_a_small_catalogue_is_taken_whole() -> None:
    ids, log_q = MixtureNegatives(COUNTS, 9, True)(torch.tensor([3, 3]))
    assert ids.tolist() == list(range(1, 10))
    assert log_q.tolist() == [0.0] * 9
    assert len(MixtureNegatives(COUNTS, 8, False)(torch.tensor([3])).ids) <= 8


def test_the_catalogue_is_every_item_for_certain() -> None:
    ids, log_q = CatalogueNegatives(COUNTS)(torch.tensor([1]))
    assert ids.tolist() == list(range(1, 10))
    assert log_q.tolist() == [0.0] * 9


def test_log_q_keeps_its_digits_for_rare_items() -> None:
    """One target in 200 million, one other position: log_q is the logarithm of that share."""
    counts = torch.tensor([0, 200_000_000 - 1, 1])
    ids, log_q = MixtureNegatives(counts, 0, True)(torch.tensor([1, 2]))
    assert ids.tolist() == [1, 2]
    assert log_q[1].item() == pytest.approx(-math.log(200_000_000), rel=1e-6)


def test_a_single_item_as_every_target_is_certain() -> None:
    ids, log_q = MixtureNegatives(torch.tensor([0, 0, 7]), 0, True)(torch.tensor([2, 2, 2]))
    assert ids.tolist() == [2]
    assert log_q.item() == pytest.approx(0.0, abs=1e-6)


def test_there_must_be_negatives() -> None:
    with pytest.raises(ValueError, match="no negatives"):
        MixtureNegatives(COUNTS, 0, False)
    with pytest.raises(ValueError, match="uniform"):
        MixtureNegatives(COUNTS, -1, True)
