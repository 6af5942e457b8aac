"""Votes of interleaved sessions: counted in a loop, and right under no preference as often as said."""

from collections import Counter

import numpy as np
from scipy.stats import binomtest

from twotower.lifecycle.preference import preference
from twotower.serving.team_draft import team_draft


def test_votes_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    session, team = random.integers(0, 40, 400), random.integers(0, 2, 400)
    outcome = random.poisson(0.3, 400)
    lead: Counter[int] = Counter()
    for s, t, o in zip(session.tolist(), team.tolist(), outcome.tolist(), strict=True):
        lead[s] += (o > 0) * (1 if t else -1)
    found = preference(session, team, outcome)
    assert found[:3] == tuple(
        sum(test(n) for n in lead.values()) for test in (lambda n: n < 0, lambda n: n > 0, lambda n: n == 0)
    )
    votes = found.first + found.second
    assert found.p_value == binomtest(found.second, votes).pvalue
    assert found.low < found.share == found.second / votes < found.high


def test_no_votes() -> None:
    found = preference(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([1, 2, 0]))
    assert found[:3] == (0, 0, 2) and np.isnan(found.share) and found.p_value == 1


def sessions(better: float, tests: int, number: int) -> np.ndarray:
    """P-values of tests of two rankings, whose items are clicked with .1 and .1 + better."""
    random = np.random.default_rng(1)
    drafts = [team_draft(range(5), range(10, 15), 5, random).teams for _ in range(200)]
    p_values = []
    for _ in range(tests):
        teams = np.array([drafts[i] for i in random.integers(0, 200, number)])
        clicks = random.random(teams.shape) < 0.1 + better * teams
        session = np.repeat(np.arange(number), 5)
        p_values.append(preference(session, teams.ravel(), clicks.ravel()).p_value)
    return np.array(p_values)


def test_false_positives_and_power() -> None:
    assert 0.02 <= (sessions(0.0, 600, 400) < 0.05).mean() <= 0.07  # an exact test of counts is a little conservative
    assert (sessions(0.06, 60, 400) < 0.05).mean() > 0.8
