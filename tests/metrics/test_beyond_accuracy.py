"""What lists are like, against plain loops and by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from twotower.metrics import beyond_accuracy as lists


def random_lists(queries: int = 30, size: int = 5, items: int = 12) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.stack([random.permutation(items)[:size] + 1 for _ in range(queries)])


def test_coverage_and_gini() -> None:
    exposed = lists.exposures(np.array([[1, 2], [1, 3]]), 4)
    assert exposed.tolist() == [2, 1, 1, 0]
    assert lists.coverage(exposed) == 0.75
    differences = sum(abs(a - b) for a in exposed.tolist() for b in exposed.tolist())
    assert lists.gini(exposed) == pytest.approx(differences / (2 * 4 * 4))
    assert lists.gini(np.full(9, 3)) == pytest.approx(0)
    assert lists.gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert lists.gini(np.zeros(3)) == 0


def test_novelty_is_the_mean_of_bits() -> None:
    counts = np.array([0, 3, 1, 0])  # with one more each: 4, 2, 1 of 7
    assert lists.novelty(np.array([[1, 2], [3, 1]]), counts) == pytest.approx(
        [(math.log2(7 / 4) + math.log2(7 / 2)) / 2, (math.log2(7) + math.log2(7 / 4)) / 2]
    )


def test_popularity_of_lists_and_of_histories() -> None:
    counts = np.array([99, 4, 2, 6])  # what PAD has is never counted
    assert lists.popularity(np.array([[1, 3], [2, 2]]), counts).tolist() == [5, 2]
    assert lists.history_popularity(np.array([[1, 0, 0], [3, 2, 3], [0, 0, 0]]), counts).tolist() == [4, 14 / 3, 0]


def test_vector_diversity_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    top = random_lists()
    items = np.random.default_rng(1).normal(size=(13, 4))
    items[3] = 0

    def cosine(a: int, b: int) -> float:
        size = np.linalg.norm(items[a]) * np.linalg.norm(items[b])
        return float(items[a] @ items[b] / size) if size else 0.0

    expected = [np.mean([1 - cosine(a, b) for a, b in combinations(row, 2)]) for row in top.tolist()]
    before = items.copy()
    np.testing.assert_allclose(lists.vector_diversity(top, items[1:]), expected, atol=1e-6)
    monkeypatch.setattr(lists, "QUERIES_AT_ONCE", 7)
    np.testing.assert_allclose(lists.vector_diversity(top, items[1:]), expected, atol=1e-6)
    np.testing.assert_array_equal(items, before)


def test_category_diversity_is_the_share_of_pairs_that_differ() -> None:
    top = random_lists()
    category = np.random.default_rng(2).integers(0, 3, 13)
    expected = [np.mean([category[a] != category[b] for a, b in combinations(row, 2)]) for row in top.tolist()]
    np.testing.assert_allclose(lists.category_diversity(top, category), expected)


def test_lists_of_one_item_have_no_diversity() -> None:
    one = np.array([[3], [1]])
    assert lists.vector_diversity(one, np.ones((4, 2))).tolist() == [0, 0]
    assert lists.category_diversity(one, np.arange(5)).tolist() == [0, 0]


def test_serendipity_leaves_out_what_anyone_would_have_said() -> None:
    recall = np.array([1.0, 1.0, 1.0, 0.0, 0.5])
    target = np.array([7, 1, 5, 8, 9])
    history = np.array([[5, 0], [5, 0], [5, 6], [5, 0], [5, 0]])
    assert lists.serendipity(recall, target, history, np.array([1, 2])).tolist() == [1, 0, 0, 0, 0.5]
