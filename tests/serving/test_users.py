"""Results with a pointer's bonuses against scores of the whole catalogue, one at a time."""

import math
from typing import Any

import numpy as np
import pytest

from twotower.serving.exact_search import exact_top_k
from twotower.serving.index import ItemIndex, build_index
from twotower.serving.users import NONE, Users, distinct_bonuses

Q, L, V, D, TEMPERATURE = 12, 7, 60, 6, 0.2


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(V, D)).astype(np.float32)
    vectors[5] = vectors[4]  # a tie
    history = random.integers(1, 13, (Q, L))  # with items that occur several times
    history[np.arange(L) >= random.integers(1, L + 1, Q)[:, None]] = 0
    history[0], history[1, :2] = 0, (5, 6)  # nothing known; both items of the tie
    pointer = random.normal(size=(Q, L)).astype(np.float32) * 6  # raised and lowered
    users = random.normal(size=(Q, D)).astype(np.float32)
    return {"vectors": vectors, "history": history, "pointer": pointer, "users": users}


def dense(made: dict[str, Any], query: int) -> list[float]:
    """[V] all scores of a query."""
    weight = [0.0] * V
    for item, logit in zip(made["history"][query].tolist(), made["pointer"][query].tolist(), strict=True):
        if item:
            weight[item - 1] += math.exp(logit)
    dots = (made["vectors"] @ made["users"][query]).tolist()
    return [dot + (TEMPERATURE * math.log(w) if w else 0.0) for dot, w in zip(dots, weight, strict=True)]


def encoded(made: dict[str, Any]) -> Users:
    return Users(made["users"], *distinct_bonuses(made["pointer"], TEMPERATURE, made["history"]))


def test_each_item_of_a_history_has_one_bonus(made: dict[str, Any]) -> None:
    users = encoded(made)
    assert users.rows is not None and users.bonus is not None
    for query, items in enumerate(made["history"].tolist()):
        rows = [row for row in users.rows[query].tolist() if row != NONE]
        assert sorted(rows) == sorted({item - 1 for item in items if item})
        base = made["vectors"] @ made["users"][query]
        for row, bonus in zip(users.rows[query], users.bonus[query], strict=True):
            expected = 0.0 if row == NONE else dense(made, query)[row] - base[row]
            assert bonus == pytest.approx(expected, abs=1e-6)
            if row != NONE:
                score = users.scores_of(np.array([row]), made["vectors"])[0, query]
                assert score == pytest.approx(dense(made, query)[row], abs=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("k", [1, 5, V])
def test_results_are_the_best_of_the_whole_catalogue(made: dict[str, Any], factory: str, share: float, k: int) -> None:
    random = np.random.default_rng(1)
    allowed = None if share == 1 else random.random(V) < share
    index = ItemIndex(build_index(made["vectors"], factory), made["vectors"], {"nprobe": 4}, 4)
    scores, rows = index.search(encoded(made), k, allowed, threads=2)
    for query in range(Q):
        expected = dense(made, query)
        order = sorted(range(V), key=lambda row: (-round(expected[row], 5), row))
        order = [row for row in order if allowed is None or allowed[row]][:k]
        assert rows[query].tolist() == order
        np.testing.assert_allclose(scores[query], [expected[row] for row in order], atol=1e-5)
    if allowed is None:
        found, best = exact_top_k(encoded(made), made["vectors"], k)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_allclose(best, scores, atol=1e-6)


def test_parts_of_queries_keep_their_bonuses(made: dict[str, Any]) -> None:
    index = ItemIndex(build_index(made["vectors"], "Flat"), made["vectors"], {}, 1)
    chosen = np.array([7, 2])
    scores, rows = index.search(encoded(made), 9)
    some_scores, some_rows = index.search(encoded(made)[chosen], 9)
    np.testing.assert_array_equal(some_rows, rows[chosen])
    np.testing.assert_allclose(some_scores, scores[chosen], atol=1e-6)
