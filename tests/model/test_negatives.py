"""Negatives: distinct, and with the true probability of being there."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from twotower.model.negatives import CatalogueNegatives, MixtureNegatives, Negatives

COUNTS = torch.tensor([0, 40, 20, 10, 10, 5, 5, 10, 0, 0])  # nine items, two of them never a target


def draw_targets(positions: int, first: int | None = None) -> Tensor:
    """Targets as often as COUNTS says; `first` fixes the first position's."""
    target = torch.multinomial(COUNTS.float(), positions, replacement=True)
    if first is not None:
        target[0] = first
    return target


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("more", [{}, {"popularity": 3}, {"queue": 9}, {"popularity": 2, "queue": 4}])
def test_ids_are_distinct_ascending_items(in_batch: bool, more: dict[str, int]) -> None:
    torch.manual_seed(0)
    negatives = MixtureNegatives(COUNTS, 5, in_batch, **more)
    for _ in range(50):
        target = draw_targets(6)
        ids, log_q = negatives(target)
        assert (ids.diff() > 0).all()
        assert ids.min() >= 1
        assert ids.max() <= 9
        assert log_q.shape == ids.shape
        assert log_q.dtype == torch.float32
        assert (log_q <= 0).all()
        assert not in_batch or set(target.tolist()) <= set(ids.tolist())


ONE_SOURCE = [(3, False, 0, 1.0, 0, 6), (0, True, 0, 1.0, 0, 6), (0, True, 2, 0.0, 0, 6), (2, False, 0, 1.0, 4, 6)]


@pytest.mark.parametrize(
    ("uniform", "in_batch", "popularity", "power", "queue", "positions"),
    [
        (3, True, 0, 1.0, 0, 2),
        (0, False, 3, 0.5, 0, 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ONE_SOURCE),
        (1, True, 2, 0.75, 5, 6),
    ],
)
def test_log_q_is_how_often_a_position_sees_another_item(
    uniform: int, in_batch: bool, popularity: int, power: float, queue: int, positions: int
) -> None:
    """Simulated for the first position, whose target is given, not drawn; earlier steps are drawn."""
    torch.manual_seed(1)
    negatives = MixtureNegatives(COUNTS, uniform, in_batch, popularity, power, queue)
    repeats, first = 3000, 2
    seen = torch.zeros(10)
    log_q = torch.full((10,), -math.inf)
    for _ in range(repeats):
        for _ in range(-(-queue // positions)):
            negatives(draw_targets(positions))
        drawn = negatives(draw_targets(positions, first=first))
        seen[drawn.ids] += 1
        log_q[drawn.ids] = drawn.log_q
    for item in range(1, 10):
        if item == first:
            continue
        frequency = seen[item].item() / repeats
        probability = math.exp(log_q[item])
        deviation = math.sqrt(probability * (1 - probability) / repeats)
        assert abs(frequency - probability) <= 4.5 * deviation + 1e-12, f"item {item}: {frequency} {probability}"
        if not uniform and COUNTS[item] == 0:
            assert frequency == 0, "draws by popularity are of what has been a target"


def test_log_q_of_a_mixture_by_hand() -> None:
    """Shares of targets 1/2, 1/4, 1/4; square roots of the counts 4, 1, 1 are 2, 1, 1 and 0 for a fourth item."""
    sampler = MixtureNegatives(torch.tensor([0, 4, 2, 2, 0]) * 2, 2, True, popularity=3, popularity_power=0.5, queue=3)
    root = [math.sqrt(8), 2, 2, 0]
    share = [1 / 2, 1 / 4, 1 / 4, 0]
    for kept in (0, 2, 3):  # the queue fills up
        ids, log_q = sampler(torch.tensor([1, 2]))
        for item, value in zip(ids.tolist(), log_q.tolist(), strict=True):
            popular, target = root[item - 1] / sum(root), share[item - 1]
            missed = (1 - 1 / 4) ** 2 * (1 - popular) ** 3 * (1 - target) ** (1 + kept)
            assert value == pytest.approx(math.log(1 - missed), abs=1e-6), (kept, item)


def test_the_queue_holds_the_last_targets() -> None:
    sampler = MixtureNegatives(torch.ones(100), 1, False, queue=5)
    queue: list[list[int]] = []
    for step in ([10, 11], [], [20, 20, 21], [31, 32], [40, 41, 42, 43, 44, 45, 46]):
        before = [item for group in queue for item in group]
        ids, _ = sampler(torch.tensor(step, dtype=torch.long))
        drawn = set(ids.tolist()) - set(before[-5:])
        assert len(drawn) <= 1, "but for the one uniform draw"
        assert set(before[-5:]) <= set(ids.tolist()) or len(before) > 5
        queue.append(step)
        if step == [31, 32]:
            assert sorted(sampler.kept.tolist()) == [20, 20, 21, 31, 32]
    assert len(set(sampler.kept.tolist()) & {40, 41, 42, 43, 44, 45, 46}) == 5


def test_who_of_a_large_step_is_kept_is_left_to_chance() -> None:
    """Of eight targets two stay, each as likely: low ids, which are popular ones, have no advantage."""
    torch.manual_seed(0)
    sampler = MixtureNegatives(torch.ones(100), 1, False, queue=2)
    count = torch.zeros(9)
    for _ in range(2000):
        sampler(torch.arange(1, 9))
        count[sampler.kept] += 1
    assert count.sum() == 4000
    assert all(abs(c - 500) < 4.5 * math.sqrt(2000 * 0.25 * 0.75) for c in count[1:].tolist())


def run(sampler: MixtureNegatives, steps: Sequence[Tensor]) -> list[tuple[list[int], list[float]]]:
    return [(n.ids.tolist(), n.log_q.tolist()) for n in (sampler(step) for step in steps)]


def test_draws_follow_the_seed_and_nothing_else() -> None:
    """Neither what else draws random numbers, nor the order of the targets, nor that a checkpoint lay between."""
    steps = [torch.tensor([3, 1, 7]), torch.tensor([2, 2, 9, 4]), torch.tensor([5]), torch.tensor([1, 6])]

    def sampler(seed: int) -> MixtureNegatives:
        torch.manual_seed(seed)
        return MixtureNegatives(torch.ones(1001), 5, True, popularity=5, queue=3)

    expected = run(sampler(4), steps)
    assert expected[0] != run(sampler(5), steps)[0]
    first = sampler(4)
    torch.rand(100)
    torch.manual_seed(99)
    assert run(first, [step.flip(0) for step in steps]) == expected
    begun = sampler(4)
    run(begun, steps[:2])
    state = begun.state_dict()
    resumed = sampler(7)
    resumed.load_state_dict(state)
    assert run(resumed, steps[2:]) == expected[2:]
    assert len({tuple(ids) for ids, _ in expected}) == len(steps), "each step draws anew"


def test_a_small_catalogue_is_taken_whole() -> None:
    ids, log_q = MixtureNegatives(COUNTS, 9, True, popularity=3, queue=5)(torch.tensor([3, 3]))
    assert ids.tolist() == list(range(1, 10))
    assert log_q.tolist() == [0.0] * 9
    assert len(MixtureNegatives(COUNTS, 8, False)(torch.tensor([3])).ids) <= 8


def test_the_catalogue_is_every_item_for_certain() -> None:
    ids, log_q = CatalogueNegatives(COUNTS)(torch.tensor([1]))
    assert ids.tolist() == list(range(1, 10))
    assert log_q.tolist() == [0.0] * 9


def test_log_q_keeps_its_digits_for_rare_items() -> None:
    """One target in 200 million: log_q is the logarithm of that share, of one other position and of one draw."""
    counts = torch.tensor([0, 200_000_000 - 1, 1])
    ids, log_q = MixtureNegatives(counts, 0, True)(torch.tensor([1, 2]))
    assert ids.tolist() == [1, 2]
    assert log_q[1].item() == pytest.approx(-math.log(200_000_000), rel=1e-6)
    sampler = MixtureNegatives(counts, 0, True, popularity=1, popularity_power=1.0)
    ids, log_q = sampler(torch.tensor([2]))
    assert log_q[1].item() == pytest.approx(-math.log(200_000_000), rel=1e-6)


def test_a_single_item_as_every_target_is_certain() -> None:
    for more in ({}, {"popularity": 2}):
        ids, log_q = MixtureNegatives(torch.tensor([0, 0, 7]), 0, True, **more)(torch.tensor([2, 2, 2]))
        assert ids.tolist() == [2]
        assert log_q.item() == pytest.approx(0.0, abs=1e-6)


def test_there_must_be_negatives() -> None:
    with pytest.raises(ValueError, match="uniform=0, in_batch=False"):
        MixtureNegatives(COUNTS, 0, False)
    with pytest.raises(ValueError, match="queue=9"):
        MixtureNegatives(COUNTS, 0, False, queue=9)  # nothing in the first step
    with pytest.raises(ValueError, match="uniform=-1"):
        MixtureNegatives(COUNTS, -1, True)
    assert isinstance(MixtureNegatives(COUNTS, 0, False, popularity=1)(torch.tensor([1])), Negatives)
