"""Bootstrap over sessions against a plain resampling of whole sessions, and against what is known by theory."""

import numpy as np
import pytest
import scipy.stats

from twotower.evaluation import intervals
from twotower.evaluation.intervals import FEWEST_SESSIONS, bootstrap_means


def sample(seed: int, sessions: int) -> tuple[np.ndarray, np.ndarray]:
    """Values that sessions share in part, and whose they are; sessions have 1 to 5 queries."""
    random = np.random.default_rng(seed)
    session = np.repeat(np.arange(sessions), random.integers(1, 6, sessions))
    chance = random.beta(2, 2, sessions)[session]
    return (random.random((len(session), 2)) < chance[:, None]).astype(float), session * 7 + 3


def test_means_and_counts_are_those_of_the_groups() -> None:
    values, session = sample(0, 200)
    random = np.random.default_rng(1)
    one, two = random.integers(-1, 3, len(values)), random.integers(0, 2, len(values))
    order = random.permutation(len(values))
    found = bootstrap_means(values[order], session[order], [one[order], two[order]], replicates=10)
    masks = [np.ones(len(values), bool), *(one == k for k in range(3)), *(two == k for k in range(2))]
    np.testing.assert_allclose(found.mean, [values[mask].mean(0) for mask in masks])
    assert found.queries.tolist() == [mask.sum() for mask in masks]
    assert found.sessions.tolist() == [len(np.unique(session[mask])) for mask in masks]


def test_the_interval_is_as_wide_as_that_of_resampled_sessions() -> None:
    values, session = sample(2, 400)
    rows = [np.flatnonzero(session == s) for s in np.unique(session)]
    random = np.random.default_rng(3)
    drawn = []
    for _ in range(1500):
        chosen = np.concatenate([rows[k] for k in random.integers(0, len(rows), len(rows))])
        drawn.append(values[chosen].mean(0))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    found = bootstrap_means(values, session, replicates=1500)
    np.testing.assert_allclose(found.high[0] - found.low[0], high - low, rtol=0.1)
    np.testing.assert_allclose((found.high[0] + found.low[0]) / 2, (high + low) / 2, atol=0.005)
    queries = bootstrap_means(values, np.arange(len(values)), replicates=1500)
    assert (queries.high[0] - queries.low[0] < 0.9 * (found.high[0] - found.low[0])).all(), "they are not independent"


def test_a_column_that_is_the_difference_of_two_is_drawn_with_them() -> None:
    values, session = sample(4, 100)
    columns = np.column_stack([values, values[:, 0] - values[:, 0]])
    found = bootstrap_means(columns, session, replicates=50)
    assert found.low[0, 2] == found.high[0, 2] == 0


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_sessions_at_once_change_nothing_but_the_draws(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    values, session = sample(5, 300)
    usual = bootstrap_means(values, session, replicates=600)
    monkeypatch.setattr(intervals, "SESSIONS_AT_ONCE", at_once)
    found = bootstrap_means(values, session, replicates=600)
    np.testing.assert_allclose(found.mean, usual.mean)
    assert found.sessions.tolist() == usual.sessions.tolist()
    np.testing.assert_allclose(found.low, usual.low, atol=0.01)
    np.testing.assert_allclose(found.high, usual.high, atol=0.01)


def test_the_seed_decides() -> None:
    values, session = sample(6, 100)
    one, same, other = (bootstrap_means(values, session, replicates=100, seed=seed) for seed in (0, 0, 1))
    assert (one.low == same.low).all() and (one.low != other.low).any()


def test_a_group_of_few_sessions_has_a_mean_and_no_interval() -> None:
    values, session = sample(7, 100)
    group = np.where(session < np.unique(session)[FEWEST_SESSIONS - 1], 0, 1)
    found = bootstrap_means(values, session, [group], replicates=50)
    assert found.sessions.tolist() == [100, FEWEST_SESSIONS - 1, 100 - FEWEST_SESSIONS + 1]
    assert np.isnan(found.low[1]).all() and not np.isnan(found.mean[1]).any()
    assert not np.isnan(found.low[2]).any()


def test_no_replicates_and_no_queries() -> None:
    values, session = sample(8, 100)
    assert np.isnan(bootstrap_means(values, session, replicates=0).low).all()
    nothing = bootstrap_means(np.empty((0, 2)), np.empty(0, dtype=np.int64), replicates=10)
    assert np.isnan(nothing.mean).all() and nothing.queries.tolist() == [0]


@pytest.mark.parametrize("sessions", [30, 60])
def test_few_sessions_have_students_interval(sessions: int) -> None:
    values = np.random.default_rng(9).normal(size=(sessions, 300))
    found = bootstrap_means(values, np.arange(sessions), replicates=4000)
    error = values.std(0, ddof=1) / np.sqrt(sessions)
    student = 2 * scipy.stats.t.ppf(0.975, sessions - 1) * error
    assert 0.99 < np.mean((found.high[0] - found.low[0]) / student) < 1.04  # Poisson draws vary a little more


def test_unequal_sessions_tell_less() -> None:
    random = np.random.default_rng(10)
    values, session = random.normal(size=(400, 200)), np.repeat(np.arange(40), [1] * 20 + [19] * 20)
    found = bootstrap_means(values, session, replicates=4000)
    rows = np.stack([values[session == s].sum(0) for s in range(40)])
    size = np.bincount(session)[:, None]
    residual = rows - size * values.mean(0)
    plain = 2 * 1.96 * np.sqrt(np.square(residual).sum(0)) / size.sum()
    kish = size.sum() ** 2 / np.square(size).sum()
    wider = scipy.stats.t.ppf(0.975, kish - 1) / 1.96 * np.sqrt(kish / (kish - 1))
    assert 0.99 * wider < np.mean((found.high[0] - found.low[0]) / plain) < 1.04 * wider
