"""What is said about an experiment follows from its intervals."""

import numpy as np
import pytest

from twotower.lifecycle.ab_users import AbUsers
from twotower.lifecycle.experiment_tables import ab_test_table, off_policy_table, preference_table
from twotower.lifecycle.off_policy import Estimate, OffPolicy
from twotower.lifecycle.preference import Preference


def off_policy(low: float, high: float, support: float = 1.0, effective: float = 900) -> OffPolicy:
    value = Estimate(1.0, 0.9, 1.1)
    lead = Estimate((low + high) / 2, low, high)
    new = {name: value for name in ("IPS", "SNIPS", "DR")}
    ratio = Estimate(support, support - 0.05, support + 0.05)
    leads = {"IPS": value, "SNIPS": value, "DR": lead}
    return OffPolicy(500, 90, value, value, new, leads, ratio, 700, effective, 0.0, np.array([1.0, 0.5]))


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "is better"), (-0.2, -0.1, "is worse"), (-0.1, 0.2, "no difference")]
)
def test_verdict_of_an_estimate(low: float, high: float, verdict: str) -> None:
    said = off_policy_table(off_policy(low, high), clip=1000)
    assert verdict in said.lines[-1] and not any("warning" in line for line in said.lines)
    assert said.rows[3][:2] == ["new, IPS", "1.000 (0.900 to 1.100)"]
    assert "place 2 has 0.50" in said.lines[1]


def test_warnings_of_an_estimate() -> None:
    lines = off_policy_table(off_policy(0, 1, support=0.7, effective=100), clip=1000).lines
    assert sum("warning" in line for line in lines) == 2 and any("70%" in line for line in lines)


def ab_users(lift: float, sizes: tuple[int, int, int] = (600, 600, 600)) -> AbUsers:
    bucket = np.repeat(["a", "b", "c"], sizes)
    value = np.random.default_rng(0).normal(1 + lift * (bucket != "a"), 0.5)
    conversion = (value > 1).astype(float)
    mixed = np.random.default_rng(1).permutation(len(value))  # the buckets' users come in turn
    bucket, value, conversion = (column[mixed] for column in (bucket, value, conversion))
    day, assigned = np.linspace(0, 14, len(value)), dict(zip("abc", sizes, strict=True))
    return AbUsers(bucket, day, conversion, value, np.zeros(len(value)), assigned, 2)


def test_several_treatments_are_each_beside_the_control() -> None:
    said = ab_test_table(ab_users(0.4), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, planned=1200)
    assert [row[0] for row in said.rows] == [
        "",
        "conversion, b",
        "value per user, b",
        "conversion, c",
        "value per user, c",
    ]
    assert all(len(row) == len(said.rows[0]) for row in said.rows)
    assert sum("better; the test may end" in line for line in said.lines) == 4
    assert any("2 users were in several" in line for line in said.lines)


def test_a_broken_or_open_test_has_no_winner() -> None:
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert sum("open; go on" in line for line in ab_test_table(ab_users(0.0), thirds, 1201).lines) == 4
    assert sum("no difference is seen" in line for line in ab_test_table(ab_users(0.0), thirds, 1200).lines) == 4
    broken = ab_test_table(ab_users(0.4, (600, 600, 400)), thirds, 1200).lines
    assert "error: the sizes" in broken[-1] and not any("better" in line for line in broken)


def test_users_beyond_the_plan_change_nothing() -> None:
    halves, users = {"a": 0.5, "b": 0.5}, ab_users(0.05, (600, 600, 0))._replace(assigned={"a": 600, "b": 600})
    first = AbUsers(*(column[:900] for column in users[:5]), users.assigned, users.in_several)
    assert ab_test_table(users, halves, 900).rows == ab_test_table(first, halves, 900).rows
    assert ab_test_table(users, halves, 1200).rows != ab_test_table(first, halves, 1200).rows


def test_preference_in_words() -> None:
    assert "prefer the second" in preference_table(Preference(10, 40, 5, 0.8, 0.66, 0.9, 1e-5)).lines[0]
    assert "prefer the first" in preference_table(Preference(40, 10, 5, 0.2, 0.1, 0.34, 1e-5)).lines[0]
    none = preference_table(Preference(0, 0, 5, np.nan, np.nan, np.nan, 1.0))
    assert "no preference" in none.lines[0] and none.rows[1][3] == ""
