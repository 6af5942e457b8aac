"""Effects of places against the truth that drew the outcomes, and against the likelihood's own maximum."""

import numpy as np
from scipy.optimize import minimize

from twotower.lifecycle.place_effects import place_effects


def counts(places: int, shown_each: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items of rank i at places from i on, drawn ones anywhere; outcomes drawn as Poisson counts."""
    random = np.random.default_rng(seed)
    truth = 1 / (1 + np.arange(places)) ** 0.7
    reach = np.vstack(
        [np.triu(0.5 ** np.abs(np.subtract.outer(np.arange(places), np.arange(places)))), np.ones(places)]
    )
    shown = np.round(shown_each * reach)
    relevance = random.uniform(0.05, 0.3, places + 1)
    return shown, random.poisson(shown * relevance[:, None] * truth), truth


def test_effects_are_the_truth_of_many_outcomes() -> None:
    shown, outcomes, truth = counts(8, 1e6, seed=0)
    effects = place_effects(shown, outcomes)
    np.testing.assert_allclose(effects / effects[0], truth, rtol=0.02)


def test_effects_are_of_maximum_likelihood() -> None:
    shown, outcomes, _ = counts(4, 2e4, seed=1)

    def loss(log: np.ndarray) -> float:
        mean = np.exp(np.add.outer(log[:5], np.append(0.0, log[5:])))
        return float((shown * mean - outcomes * np.log(mean)).sum())

    best = minimize(loss, np.full(8, -1.0), method="BFGS", options={"gtol": 1e-3})
    effects = place_effects(shown, outcomes)
    np.testing.assert_allclose(effects[1:] / effects[0], np.exp(best.x[5:]), rtol=0.005)


def test_leading_dimensions_are_done_one_by_one() -> None:
    tables = [counts(5, 3e3, seed)[:2] for seed in range(3)]
    together = place_effects(np.stack([shown for shown, _ in tables]), np.stack([outcomes for _, outcomes in tables]))
    for one, (shown, outcomes) in zip(together, tables, strict=True):
        np.testing.assert_allclose(one, place_effects(shown, outcomes), rtol=1e-6)


def test_a_place_without_an_outcome_is_not_zero_and_no_outcome_means_no_difference() -> None:
    shown = np.array([[1000.0, 100.0], [0.0, 1000.0]])
    effects = place_effects(shown, np.array([[50.0, 0.0], [0.0, 0.0]]))
    assert (effects > 0).all() and effects[1] < effects[0]
    np.testing.assert_allclose(place_effects(shown, np.zeros((2, 2))), [1, 1])
