"""A/B read-out: false positives at one look and under daily peeking, CUPED, sample ratio, against scipy and loops.

`pytest -s -k false_positives tests/lifecycle/test_ab_test.py` prints the figures. Shapes: U users.
"""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from twotower.core.errors import UserError
from twotower.lifecycle.ab_test import difference, sample_ratio

DAYS, EACH = 28, 100  # users of each bucket that come each day
TESTS = 250  # with 2,000 the study has tighter figures


def shoppers(users: int, random: np.random.Generator, lift: float = 1.0) -> tuple[Any, Any, Any]:
    """Conversion, revenue and revenue before the test: a tenth buy, for very different sums; buyers bought before."""
    taste = random.gamma(2.0, 0.5, users)
    bought = (random.random(users) < np.minimum(0.1 * lift * taste, 1)).astype(np.float64)
    before = random.poisson(2.0 * taste) * random.lognormal(3.0, 0.5, users)
    return bought, bought * random.lognormal(3.0, 0.8, users), before


@pytest.mark.slow
def test_false_positives_at_one_look_and_under_daily_peeking() -> None:
    wrong: dict[str, list[bool]] = {}
    for seed in range(TESTS):
        random = np.random.default_rng(seed)
        control, treatment = (shoppers(DAYS * EACH, random) for _ in range(2))
        for what, figure, cuped in (("conversion", 0, False), ("revenue", 1, False), ("revenue, CUPED", 1, True)):
            looks = []
            for day in range(1, DAYS + 1):
                now = slice(0, day * EACH)
                before = (control[2][now], treatment[2][now]) if cuped else None
                looks.append(difference(control[figure][now], treatment[figure][now], 2 * DAYS * EACH, day, before))
            wrong.setdefault(f"{what}, once", []).append(abs(looks[-1].difference) > looks[-1].once)
            wrong.setdefault(f"{what}, once, peeking", []).append(any(abs(x.difference) > x.once for x in looks))
            wrong.setdefault(f"{what}, daily, peeking", []).append(any(abs(x.difference) > x.daily for x in looks))
    share = {name: float(np.mean(found)) for name, found in wrong.items()}
    print("\n" + "\n".join(f"{name:32} {value:.3f}" for name, value in share.items()))
    for name, value in share.items():
        if name.endswith("once, peeking"):
            assert value > 0.15  # what the other interval is for
        else:
            assert 0.01 <= value <= 0.095  # three standard errors of TESTS draws


def test_the_interval_for_one_look_is_welchs_of_many_users() -> None:
    random = np.random.default_rng(1)
    old, new = random.exponential(3.0, 4000), random.exponential(3.2, 2500)
    found = difference(old, new, planned=6500, days=28)
    interval = ttest_ind(new, old, equal_var=False).confidence_interval(0.95)
    assert (found.difference - found.once, found.difference + found.once) == pytest.approx(interval, abs=2e-3)
    assert found.explained == 0 and found.daily > found.once
    assert found.relative == pytest.approx(new.mean() / old.mean() - 1)


def test_cuped_is_a_regression_on_what_was_before() -> None:
    """Deng et al. 2013: variance falls by the squared correlation, and the difference stays the same on average."""
    random = np.random.default_rng(2)
    plain, adjusted, explained = [], [], []
    for _ in range(300):
        before = random.normal(size=(2, 500))
        old, new = 2 * before + random.normal(size=(2, 500)) + np.array([[0.0], [0.3]])
        plain.append(difference(old, new, 1000, 28).difference)
        result = difference(old, new, 1000, 28, (before[0], before[1]))
        adjusted.append(result.difference)
        explained.append(result.explained)
    assert np.mean(adjusted) == pytest.approx(0.3, abs=4 * np.std(adjusted) / np.sqrt(300))
    assert np.mean(explained) == pytest.approx(0.8, abs=0.01)
    assert np.var(adjusted) / np.var(plain) == pytest.approx(0.2, abs=0.06)


def test_cuped_with_nothing_to_explain_changes_nothing() -> None:
    random = np.random.default_rng(3)
    old, new = random.random((2, 200))
    plain = difference(old, new, 400, 28)
    assert difference(old, new, 400, 28, (np.zeros(200), np.zeros(200))) == plain
    same = difference(np.ones(50), np.ones(50), 100, 28, (random.random(50), random.random(50)))
    assert (same.difference, same.once, same.daily, same.explained) == (0, 0, 0, 0)
    assert np.isnan(difference(np.zeros(50), np.ones(50), 100, 28).relative)


def test_few_users_have_no_interval() -> None:
    with pytest.raises(UserError, match="the treatment has 29 users"):
        difference(np.ones(30), np.ones(29), 100, 28)


def test_bucket_sizes_that_no_chance_makes() -> None:
    assert sample_ratio({"old": 10_000, "new": 10_100}, {"old": 0.5, "new": 0.5}) > 0.4
    assert sample_ratio({"old": 10_000, "new": 10_700}, {"old": 0.5, "new": 0.5}) < 0.001
    assert sample_ratio({"a": 900, "b": 90, "c": 10}, {"a": 9, "b": 0.9, "c": 0.1}) == pytest.approx(1)
    exact = binomtest(540, 1000, 0.5).pvalue
    assert sample_ratio({"a": 540, "b": 460}, {"a": 0.5, "b": 0.5}) == pytest.approx(exact, rel=0.1)
