"""Items near an item, and histories near an item, by sorting all of them. Shapes: V items."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from naive_shop import COLUMNS, COUNTS, FILTERS, IDS, V, naive_list, naive_scores

from twotower.serving.bundle_format import COSINE, DOT, EMBEDDINGS_FILE
from twotower.serving.retriever import Retriever


@pytest.fixture(scope="module", params=[DOT, COSINE])
def path(request: pytest.FixtureRequest, make_bundle: Any) -> Path:
    shop: Path = make_bundle(IDS, COUNTS, similarity=request.param, columns=COLUMNS)
    return shop


@pytest.fixture(scope="module")
def retriever(path: Path) -> Retriever:
    return Retriever.load(path)


@pytest.fixture(scope="module")
def vectors(path: Path) -> Any:
    return np.load(path / EMBEDDINGS_FILE)


def item_scores(vectors: Any, item: int) -> list[float] | None:
    """[V] dot products with an item; None where there is no such item."""
    return (vectors.astype(np.float64) @ vectors[IDS.index(item)]).tolist() if item in IDS else None


@pytest.mark.parametrize(
    "more", [{}, {"include": IDS[:20]}, {"exclude": IDS[5:40]}, {"max_per": {"brand": 2}}, {"max_per": {"tags": 1}}]
)
@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_similar_items_equal_a_naive_loop(retriever: Retriever, vectors: Any, number: int, more: Any) -> None:
    predicate, holds = FILTERS[number]
    items = [100, 999, 520, IDS[-1], 100]
    for k in (1, 7, 100):
        found = retriever.similar_items(items, k, filters=predicate, **more)
        for row, item in enumerate(items):
            exclude = [*more.get("exclude", []), item]
            ids, scores = naive_list(item_scores(vectors, item), k, holds=holds, **more | {"exclude": exclude})
            ids, scores = (ids, scores) if item in IDS else ([], [])
            assert found.ids[row] == ids
            scores += [np.nan] * (found.scores.shape[1] - len(scores))
            np.testing.assert_allclose(found.scores[row], scores, rtol=1e-5, atol=1e-5)


def test_an_item_is_not_among_its_own(retriever: Retriever) -> None:
    found = retriever.similar_items(IDS, V)
    assert [sorted([*ids, item]) for ids, item in zip(found.ids, IDS, strict=True)] == [IDS] * V
    assert np.isnan(found.scores[:, -1]).all()
    assert np.isfinite(found.scores[:, :-1]).all()


def test_an_unknown_item_has_no_similar_ones(retriever: Retriever) -> None:
    found = retriever.similar_items([999, 100], 10)
    assert found.ids == [[], *retriever.similar_items([100], 10).ids]
    assert np.isnan(found.scores[0]).all()
    assert np.isfinite(found.scores[1]).all()
    assert retriever.similar_items([999, 998], 3).ids == [[], []]
    none = retriever.similar_items([], 3)
    assert none.ids == []
    assert none.scores.shape == (0, 3)


def test_similar_items_alone_and_together(retriever: Retriever) -> None:
    items = np.random.default_rng(0).choice([*IDS, 999], 2000).tolist()
    together = retriever.similar_items(np.array(items), 5)
    alone = {item: retriever.similar_items([item], 5) for item in {*items}}
    for row, item in enumerate(items):
        assert together.ids[row] == alone[item].ids[0]
        np.testing.assert_allclose(together.scores[row], alone[item].scores[0], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 9, 1000])
def test_audience_equals_a_sort_of_all(retriever: Retriever, vectors: Any, k: int) -> None:
    random = np.random.default_rng(3)
    histories = [random.choice([*IDS, 999], random.integers(0, 6)).tolist() for _ in range(200)]
    histories[5], histories[6], histories[7] = [999, 999], [100, 107], [100, 107]  # of twins the first is first
    items = [100, 999, 520, 100, IDS[-1]]
    found = retriever.audience(items, histories, k)
    assert found.scores.shape == (len(items), min(k, 200))
    assert found.scores.dtype == np.float32
    scored = [naive_scores(vectors, history) for history in histories]
    for row, item in enumerate(items):
        if item not in IDS:
            assert found.histories[row] == []
            assert np.isnan(found.scores[row]).all()
            continue
        place = IDS.index(item)
        score = {number: scores[place] for number, scores in enumerate(scored) if scores is not None}
        expected = sorted(score, key=lambda number, score=score: -score[number])[:k]
        assert found.histories[row] == expected
        padded = [score[number] for number in expected] + [np.nan] * (min(k, 200) - len(expected))
        np.testing.assert_allclose(found.scores[row], padded, rtol=1e-5, atol=1e-5)


def test_audience_of_nobody(retriever: Retriever) -> None:
    for histories in ([], [[]], [[999], []]):
        found = retriever.audience([100, 520], histories, 5)
        assert found.histories == [[], []]
        assert found.scores.shape == (2, len(histories))
        assert np.isnan(found.scores).all()
    found = retriever.audience([], [[100]], 5)
    assert found.histories == []
    assert found.scores.shape == (0, 1)
    found = retriever.audience([999], [[100]], 5)
    assert found.histories == [[]]


def test_audience_and_recommend_agree_on_scores(retriever: Retriever) -> None:
    histories = [[100], [520, 107], [999, 114]]
    answers = retriever.recommend(histories, V)
    audience = retriever.audience([IDS[7]], histories, 3)
    for number, score in zip(audience.histories[0], audience.scores[0], strict=True):
        place = answers.ids[number].index(IDS[7])
        np.testing.assert_allclose(score, answers.scores[number, place], rtol=1e-5)
