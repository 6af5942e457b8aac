"""What a request asks of its list, against a naive loop over all items. Shapes: V items, k answers."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from naive_shop import COLUMNS, COUNTS, FILTERS, IDS, VALUES, V, naive_list, naive_scores
from serving_oracle import reseal

from twotower.serving import selection as module
from twotower.serving.answers import Recommendations
from twotower.serving.bundle_format import EMBEDDINGS_FILE, INDEX_FILE
from twotower.serving.index import build_index
from twotower.serving.retriever import Retriever

HISTORIES = [[100], [107, 999, 100], [], [999], [100, 100, 520, 100], IDS, IDS[:30] * 3]


@pytest.fixture(scope="module")
def path(make_bundle: Any) -> Path:
    shop: Path = make_bundle(IDS, COUNTS, columns=COLUMNS)
    return shop


@pytest.fixture(scope="module")
def retriever(path: Path) -> Retriever:
    return Retriever.load(path)


@pytest.fixture(scope="module")
def vectors(path: Path) -> np.ndarray[Any, Any]:
    loaded: np.ndarray[Any, Any] = np.load(path / EMBEDDINGS_FILE)
    return loaded


def assert_answers(found: Recommendations, row: int, ids: list[int], scores: list[float]) -> None:
    """One query's list; what it lacks to k has NaN for scores."""
    assert found.ids[row] == ids
    padded = scores + [np.nan] * (found.scores.shape[1] - len(scores))
    np.testing.assert_allclose(found.scores[row], padded, rtol=1e-5, atol=1e-5)


def random_request(random: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some options for recommend, and the same for the naive loop."""
    predicate, holds = FILTERS[random.integers(len(FILTERS))]
    asked: dict[str, Any] = {"filters": predicate}
    naive: dict[str, Any] = {"holds": holds}
    if random.random() < 0.3:
        asked["include"] = naive["include"] = random.choice([*IDS, 1, 2], random.integers(0, 40)).tolist()
    if random.random() < 0.5:
        asked["exclude"] = naive["exclude"] = random.choice([*IDS, 1, 2], random.integers(0, 40)).tolist()
    if random.random() < 0.5:
        names = [["brand"], ["tags"], ["brand", "tags"]][random.integers(3)]
        asked["max_per"] = naive["max_per"] = {name: int(random.integers(1, 6)) for name in names}
    if random.random() < 0.5:
        asked["exclude_seen"] = True
    return asked, naive


@pytest.mark.parametrize("seed", range(40))
def test_any_request_equals_a_naive_loop(retriever: Retriever, vectors: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    asked, naive = random_request(random)
    k = int(random.choice([1, 3, 10, V, 500]))
    found = retriever.recommend(HISTORIES, k, **asked)
    assert len(found.ids) == len(HISTORIES)
    assert found.scores.dtype == np.float32
    for row, history in enumerate(HISTORIES):
        seen = history if asked.get("exclude_seen") else []
        expected = naive | {"exclude": [*naive.get("exclude", []), *seen]}
        assert_answers(found, row, *naive_list(naive_scores(vectors, history), k, **expected))


def test_nothing_allowed_has_no_answers(retriever: Retriever) -> None:
    for asked in ({"filters": {"brand": "none such"}}, {"include": []}, {"exclude": IDS}, {"exclude": np.array(IDS)}):
        for more in ({}, {"exclude_seen": True}, {"max_per": {"brand": 1}}, {"exploration": 0.5, "seed": 1}):
            found = retriever.recommend([[100], []], 5, **asked, **more)
            assert found.ids == [[], []]
            assert found.scores.shape == (2, 0)
            assert (found.propensities is not None) == ("exploration" in more)


def test_all_seen_has_no_answers(retriever: Retriever) -> None:
    found = retriever.recommend([IDS * 2, [100]], 5, exclude_seen=True)
    assert found.ids[0] == []
    assert len(found.ids[1]) == 5
    assert np.isnan(found.scores[0]).all()


@pytest.mark.parametrize("asked", [{"exclude_seen": True}, {"max_per": {"brand": 1}}, {"exploration": 0.5}])
def test_no_histories_have_no_answers(retriever: Retriever, asked: dict[str, Any]) -> None:
    found = retriever.recommend([], 5, **asked)
    assert found.ids == []
    assert found.scores.shape == (0, 5)


def test_a_cap_looks_as_far_as_it_may(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One brand has the best 250 items: the search for others widens, and ends where it may look no further."""
    size = 300
    ids = list(range(1, size + 1))
    plain = Retriever.load(make_bundle(ids)).recommend([[1]], size).ids[0]
    rank = {item: place for place, item in enumerate(plain)}
    brands = ["big" if rank[item] < 250 else f"small {item}" for item in ids]
    retriever = Retriever.load(make_bundle(ids, columns={"brand": brands}))
    answers = retriever.recommend([[1]], 5, max_per={"brand": 1})
    assert answers.ids == [[plain[0], *plain[250:254]]]
    assert np.isfinite(answers.scores).all()
    monkeypatch.setattr(module, "CANDIDATES", 252)
    answers = retriever.recommend([[1]], 5, max_per={"brand": 1})
    assert answers.ids == [[plain[0], *plain[250:252]]]
    assert np.isnan(answers.scores[0]).tolist() == [False] * 3 + [True] * 2


def test_no_exploration_is_the_plain_list(retriever: Retriever) -> None:
    plain = retriever.recommend(HISTORIES, 10)
    for seed in (None, 0, 7):
        found = retriever.recommend(HISTORIES, 10, exploration=0, seed=seed)
        assert found.ids == plain.ids
        np.testing.assert_array_equal(found.scores, plain.scores)


@pytest.mark.parametrize("share", [0.3, 1])
@pytest.mark.parametrize(
    "asked",
    [{}, {"filters": {"brand": ["a", "b", None]}}, {"exclude_seen": True}, {"max_per": {"brand": 4}}],
    ids=["any", "filters", "exclude seen", "max per"],
)
def test_explored_lists(retriever: Retriever, vectors: Any, share: float, asked: dict[str, Any]) -> None:
    histories, k = [[100], [107, 114], [], [100, 520, 100]], 4
    found = retriever.recommend(histories, k, exploration=share, seed=5, **asked)
    again = retriever.recommend(histories, k, exploration=share, seed=5, **asked)
    assert found.ids == again.ids
    np.testing.assert_array_equal(found.scores, again.scores)
    others = [retriever.recommend(histories, k, exploration=share, seed=seed, **asked).ids for seed in range(6, 12)]
    assert any(other != found.ids for other in others)
    assert found.propensities is not None and found.ranks is not None
    np.testing.assert_array_equal(found.propensities, again.propensities)
    best = retriever.recommend(histories, k, **asked)
    assert best.propensities is best.ranks is None
    reach = retriever.recommend(histories, 10 * k, **asked)
    for row, history in enumerate(histories):
        ids = found.ids[row]
        assert len(set(ids)) == len(ids) == k
        own = [item for item in ids if item in best.ids[row]]
        assert own == best.ids[row][: len(own)]
        assert ids == [reach.ids[row][rank] for rank in found.ranks[row]]
        assert ((found.propensities[row] > 0) & (found.propensities[row] <= 1)).all()
        if share == 1 and len(reach.ids[row]) >= 2 * k:
            assert not own
        scores = naive_scores(vectors, history)
        expected = [np.nan] * k if scores is None else [scores[IDS.index(item)] for item in ids]
        np.testing.assert_allclose(found.scores[row], expected, rtol=1e-5, atol=1e-5)
        brands = [value for item in ids for value in VALUES["brand"][IDS.index(item)]]
        assert "max_per" not in asked or all(brands.count(brand) <= 4 for brand in brands)
        alone = retriever.recommend([history], k, exploration=share, seed=5, **asked)
        assert alone.ids == [ids]  # whoever else asks


def test_exploration_without_a_seed_is_never_the_same(retriever: Retriever) -> None:
    lists = [retriever.recommend([[100]], 5, exploration=1.0).ids[0] for _ in range(20)]
    assert len({tuple(ids) for ids in lists}) > 10


@pytest.mark.parametrize("known_by", ["counts", "ages"])
def test_rarely_seen_and_new_items_are_explored_more_often(make_bundle: Any, known_by: str) -> None:
    """Half of 90 candidates have no training event, or are of the last day, half have 99: drawn a tenth as likely."""
    ids = list(range(1, 101))
    best = Retriever.load(make_bundle(ids)).recommend([[1]], 100).ids[0]
    rare = set(best[10::2])
    retriever = Retriever.load(make_bundle(ids, **{known_by: [0 if item in rare else 99 for item in ids]}))
    lists = [retriever.recommend([[1]], 10, exploration=0.2, seed=seed).ids[0] for seed in range(300)]
    explored = [item for found in lists for item in found if item not in best[:10]]
    assert 450 < len(explored) < 750
    assert np.mean([item in rare for item in explored]) > 0.8


@pytest.mark.parametrize(("factory", "search"), [("IVF6,SQ8", {"nprobe": 2}), ("IVF6,SQfp16", {"nprobe": 6})], ids=str)
def test_an_index_that_is_not_exact_keeps_to_what_was_asked(
    make_bundle: Any, vectors: Any, factory: str, search: dict[str, int]
) -> None:
    path = make_bundle(IDS, COUNTS, columns=COLUMNS)
    faiss.write_index(build_index(vectors, factory), str(path / INDEX_FILE))
    facts = {"kind": "any", "factory": factory, "search": search, "rerank": 4, "recall": 0.9, "golden_recall": 0.9}
    reseal(path, index=facts)
    retriever = Retriever.load(path)
    shares = []
    for seed in range(20):
        asked, naive = random_request(np.random.default_rng(seed))
        found = retriever.recommend(HISTORIES, 6, **asked)
        for row, history in enumerate(HISTORIES):
            seen = history if asked.get("exclude_seen") else []
            scores = naive_scores(vectors, history)
            every, _ = naive_list(scores, V, **naive | {"exclude": [*naive.get("exclude", []), *seen], "max_per": None})
            expected, _ = naive_list(scores, 6, **naive | {"exclude": [*naive.get("exclude", []), *seen]})
            ids = found.ids[row]
            assert set(ids) <= set(every)
            assert len(set(ids)) == len(ids)
            if "max_per" not in naive:
                assert len(ids) == len(expected)
            if scores is None:
                assert ids == expected
            elif expected:
                exact = [scores[IDS.index(item)] for item in ids]
                np.testing.assert_allclose(found.scores[row, : len(ids)], exact, rtol=1e-5, atol=1e-5)
                shares.append(len(set(ids) & set(expected)) / len(expected))
    assert np.mean(shares) > 0.85


def test_threads_with_different_wishes_share_a_retriever(path: Path) -> None:
    requests = [random_request(np.random.default_rng(seed))[0] for seed in range(24)]
    requests += [{"exploration": 0.5, "seed": seed} for seed in range(8)]

    def ask(retriever: Retriever, number: int) -> Recommendations:
        return retriever.recommend(HISTORIES[number % 3 :], 1 + number % 9, **requests[number % len(requests)])

    alone = [ask(Retriever.load(path), number) for number in range(len(requests))]
    shared = Retriever.load(path)  # reads its columns while several ask for them
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda number: ask(shared, number), list(range(len(requests))) * 5))
    finally:
        sys.setswitchinterval(interval)
    for found, expected in zip(together, alone * 5, strict=True):
        assert found.ids == expected.ids
        np.testing.assert_array_equal(found.scores, expected.scores)
