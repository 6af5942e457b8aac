"""Users needed: against statistical tables and against simulated tests of that size."""

import numpy as np
import pytest
from scipy.stats import norm

from twotower.core.errors import UserError
from twotower.lifecycle.ab_test import difference
from twotower.lifecycle.power import days_needed, users_needed


def test_one_look_needs_what_the_textbooks_say() -> None:
    """Fleiss, Levin & Paik 2003: 16 * variance / difference^2 users of each bucket, about."""
    assert users_needed(1.0, 0.1) == pytest.approx(2 * 16 / 0.01, rel=0.03)
    p, lift = 0.03, 0.05
    users = users_needed(np.sqrt(p * (1 - p)), p * lift)
    error = np.sqrt(2 * p * (1 - p) / (users / 2))
    assert norm.sf(norm.isf(0.025) - p * lift / error) == pytest.approx(0.8, abs=1e-3)


def test_unequal_buckets_and_cuped_and_power() -> None:
    half = users_needed(1.0, 0.1)
    assert users_needed(1.0, 0.1, share=0.1) == pytest.approx(half * 0.25 / 0.09, rel=1e-3)
    assert users_needed(1.0, 0.1, explained=0.4) == pytest.approx(half * 0.6, rel=1e-3)
    assert users_needed(1.0, -0.1) == half
    assert users_needed(1.0, 0.1, power=0.9) > half


@pytest.mark.parametrize("days", [1, 5])
def test_simulated_tests_of_that_size_see_the_difference_in_four_of_five(days: int) -> None:
    random, each = np.random.default_rng(0), -(-users_needed(1.0, 0.25, daily=days > 1) // (2 * days))
    seen = []
    for _ in range(1000):
        old, new = random.normal(0, 1, (2, days * each))
        looks = [
            difference(old[: day * each], new[: day * each] + 0.25, 2 * days * each, day) for day in range(1, days + 1)
        ]
        seen.append(any(found.difference > (found.daily if days > 1 else found.once) for found in looks))
    assert np.mean(seen) == pytest.approx(0.8, abs=0.04)


def test_days_are_whole() -> None:
    assert days_needed(1001, 100) == 11
    with pytest.raises(UserError, match="users per day"):
        days_needed(10, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"deviation": 0}, {"difference": 0}, {"share": 1}, {"explained": 1}, {"power": 0}, {"level": float("nan")}],
)
def test_numbers_outside_their_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        users_needed(**{"deviation": 1.0, "difference": 0.1, **wrong})
