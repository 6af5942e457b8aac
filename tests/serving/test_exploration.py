"""Exploration against expectations and the exact distribution of draws.

Shapes: m candidates, k answers, Q queries, V items.
"""

from collections import Counter, defaultdict
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from twotower.core.errors import UserError
from twotower.serving.exploration import (
    check_exploration,
    exploration_effect,
    explore,
    novelty,
)


def plain(candidates: int, k: int) -> list[int]:
    return list(range(min(candidates, k)))


@given(st.integers(0, 300), st.integers(1, 25), st.floats(0, 1), st.integers(0, 2**32))
def test_a_list_holds_k_different_candidates(candidates: int, k: int, exploration: float, seed: int) -> None:
    weight = np.random.default_rng(1).uniform(0.01, 1, candidates)
    (first, chance), (again, _) = (
        explore(candidates, k, exploration, np.random.default_rng(seed), weight) for _ in range(2)
    )
    assert first.tolist() == again.tolist()
    assert len(set(first.tolist())) == len(first) == min(k, candidates)
    assert all(0 <= place < min(candidates, 10 * k) for place in first)
    assert ((chance > 0) & (chance <= 1)).all()
    own = [place for place in first if place < k]
    assert own == plain(candidates, len(own))  # the best, in order
    if exploration == 0 or candidates <= k:
        assert first.tolist() == plain(candidates, k)
    if exploration == 1 and candidates >= 2 * k:
        assert not own


def test_exploration_is_the_expected_share() -> None:
    k, exploration, lists = 20, 0.3, 2000
    random = np.random.default_rng(0)
    found = np.stack([explore(500, k, exploration, random, np.ones(500)).ranks for _ in range(lists)])
    at = (found >= k).mean(axis=0)  # by place
    error = np.sqrt(exploration * (1 - exploration) / lists)
    assert (np.abs(at - exploration) < 4.5 * error).all()
    assert abs((found >= k).mean() - exploration) < 4 * error / np.sqrt(k)


def every_list(candidates: int, k: int, exploration: float, weight: Any) -> dict[tuple[int, ...], float]:
    """The probability of each list, by going through all strata of the places, patterns of exploration and draws."""
    pool = range(k, min(candidates, 10 * k))
    chance: dict[tuple[int, ...], float] = defaultdict(float)
    orders = list(permutations(range(k)))
    for order, pattern in product(orders, product([False, True], repeat=k)):
        p = np.prod([exploration if hit else 1 - exploration for hit in pattern]) / len(orders)
        strata = [
            [r for r in pool if (r % k + r // k - 1) % k == stratum] if hit else []
            for stratum, hit in zip(order, pattern, strict=True)
        ]
        for drawn in product(*(stratum or [None] for stratum in strata)):
            best = iter(range(k))
            shares = [
                weight[r] / sum(weight[other] for other in stratum)
                for r, stratum in zip(drawn, strata, strict=True)
                if r is not None
            ]
            chance[tuple(next(best) if r is None else r for r in drawn)] += p * np.prod(shares)
    return chance


@pytest.mark.parametrize(
    ("candidates", "k", "exploration"),
    [(40, 2, 0.3), (9, 3, 0.4), (5, 3, 0.4), (4, 3, 1.0), (7, 2, 1.0), (3, 3, 0.5), (1, 1, 0.2), (2, 1, 0.2)],
)
def test_propensities_are_those_of_all_lists_gone_through(candidates: int, k: int, exploration: float) -> None:
    weight = np.random.default_rng(5).uniform(0.1, 1, candidates)
    chance = every_list(candidates, k, exploration, weight)
    assert sum(chance.values()) == pytest.approx(1)
    inclusion = {r: sum(p for ranks, p in chance.items() if r in ranks) for r in range(candidates)}
    assert sum(inclusion.values()) == pytest.approx(k)
    random, lists, count = np.random.default_rng(0), 4000, Counter[tuple[int, ...]]()
    for _ in range(lists):
        ranks, propensities = explore(candidates, k, exploration, random, weight)
        np.testing.assert_allclose(propensities, [inclusion[r] for r in ranks.tolist()])
        count[tuple(ranks.tolist())] += 1
    assert count.keys() <= {ranks for ranks, p in chance.items() if p > 0}
    for ranks, p in chance.items():
        assert abs(count[ranks] / lists - p) < 4.5 * np.sqrt(max(p * (1 - p), 0) / lists) + 1e-9


@pytest.mark.parametrize(("k", "exploration"), [(20, 0.1), (300, 0.4), (3000, 0.5)])
def test_a_plain_result_is_in_the_list_as_often_as_few_enough_are_explored(k: int, exploration: float) -> None:
    ranks, propensities = explore(10 * k, k, exploration, np.random.default_rng(0), np.ones(10 * k))
    plain = ranks < k
    expected = binom.cdf(k - 1 - ranks[plain], k, exploration)
    np.testing.assert_allclose(propensities[plain], expected, rtol=1e-6)
    np.testing.assert_allclose(propensities[~plain], exploration / 9)


def test_novelty_is_the_error_of_what_was_learnt_and_falls_with_age() -> None:
    counts, ages = np.array([0, 3, 8, 99, 0, 3]), np.array([0, 0, 0, 0, 3, 99])
    np.testing.assert_allclose(novelty(counts, ages), [1, 1 / 2, 1 / 3, 1 / 10, 1 / 2, 1 / 20])
    np.testing.assert_allclose(novelty(counts, np.full(6, np.nan)), novelty(counts, np.zeros(6)))


def test_effect_of_exploration() -> None:
    """Where what comes next is in the first k and never beyond, a share s of exploration costs about s of recall."""
    queries, items, k = 400, 3000, 10
    random = np.random.default_rng(0)
    ranked = np.argsort(random.random((queries, items)), axis=1)[:, : 10 * k]
    target = ranked[np.arange(queries), random.integers(0, k, queries)]
    target[:40] = -1  # not in the catalogue
    effect = exploration_effect(ranked, target, k, np.ones(items), seed=1)
    assert [row["exploration"] for row in effect] == [0, 0.1, 0.2, 0.4]
    none = effect[0]
    assert none == {
        "exploration": 0.0,
        "recall": 0.9,
        "coverage": len({int(row) for rows in ranked for row in rows[:k]}) / items,
        "explored": 0.0,
    }
    for row in effect[1:]:
        share = row["exploration"]
        assert row["explored"] == pytest.approx(share * k, abs=4 * np.sqrt(share * k / queries))
        assert row["recall"] == pytest.approx(0.9 * (1 - share), abs=4 * np.sqrt(0.25 / queries))
    assert effect == exploration_effect(ranked, target, k, np.ones(items), seed=1)
    assert effect != exploration_effect(ranked, target, k, np.ones(items), seed=2)


def test_exploration_shows_more_items() -> None:
    """All ask the same; only exploration finds other items for them, and rare ones sooner than others."""
    ranked = np.tile(np.arange(200), (300, 1))
    weight = novelty(np.r_[np.zeros(110), np.full(90, 99)], np.full(200, 5))
    few, many = exploration_effect(ranked, np.full(300, 5), 20, weight, seed=0, shares=[0.0, 0.2])
    assert few["coverage"] == 0.1 and few["recall"] == 1
    assert many["coverage"] > 0.5
    lists = np.stack([explore(200, 20, 0.2, np.random.default_rng(q), weight).ranks for q in range(300)])
    rare, known = ((lists >= 20) & (lists < 110)).sum() / 90, (lists >= 110).sum() / 90
    assert rare > 5 * known


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "0.1", None, True])
def test_exploration_is_a_share(wrong: Any) -> None:
    with pytest.raises(UserError, match="exploration is"):
        check_exploration(wrong, None)


@pytest.mark.parametrize("wrong", [-1, 2**64, 1.5, "1", True])
def test_seed_is_an_integer(wrong: Any) -> None:
    with pytest.raises(UserError, match="seed is"):
        check_exploration(0.1, wrong)
    assert check_exploration(1, np.int64(3)) == (1.0, 3)
    assert check_exploration(np.float32(0.5), None) == (0.5, None)
