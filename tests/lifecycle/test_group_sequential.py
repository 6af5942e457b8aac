"""Boundaries of daily looks, against published constants and simulated paths."""

import numpy as np
import pytest

from twotower.lifecycle.group_sequential import daily_effect, daily_half_width, fixed_half_width


@pytest.mark.parametrize(("looks", "constant"), [(1, 1.960), (2, 1.977), (5, 2.040), (10, 2.087), (20, 2.126)])
def test_constants_are_near_those_of_the_tables(looks: int, constant: float) -> None:
    """Jennison & Turnbull 2000, table 2.3: of O'Brien & Fleming's tests of 5 %, two-sided."""
    assert daily_half_width(1.0, 1.0, looks) == pytest.approx(constant, abs=0.065)
    assert daily_half_width(2.0, 0.25, looks) == pytest.approx(4 * daily_half_width(1.0, 1.0, looks))


@pytest.mark.parametrize("days", [2, 7, 28, 90])
def test_paths_leave_the_intervals_as_rarely_as_said_and_an_effect_is_seen(days: int) -> None:
    share = np.arange(1, days + 1) / days
    steps = np.random.default_rng(days).normal(size=(20_000, days)) / np.sqrt(days)
    estimate = steps.cumsum(axis=1) / np.sqrt(share)  # in standard errors of each day
    half = np.array([daily_half_width(1.0, now, days) for now in share])
    assert (np.abs(estimate) > half).any(axis=1).mean() == pytest.approx(0.05, abs=0.01)
    seen = (estimate + daily_effect(0.8) * np.sqrt(share) > half).any(axis=1).mean()
    assert seen == pytest.approx(0.8, abs=0.01 if days > 10 else 0.03)


def test_one_look_is_the_narrowest() -> None:
    assert fixed_half_width(1.0) == pytest.approx(1.959964, abs=1e-6)
    assert daily_half_width(1.0, 1.0, days=1) == fixed_half_width(1.0)
