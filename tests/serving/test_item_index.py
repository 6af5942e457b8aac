"""Building, searching and checking the index, against NumPy's own answers. Shapes: V items, Q queries, k answers."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from twotower.serving import index as module
from twotower.serving.index import ItemIndex, build_index, centres_of, check_index, scan

V, D, K = 1000, 16, 10
KINDS: dict[str, dict[str, int]] = {
    "Flat": {},
    "IVF64,Flat": {"nprobe": 16},
    "IVF64,SQfp16": {"nprobe": 16},
    "IVF64,SQ8": {"nprobe": 16},
    "IVF64,SQ4": {"nprobe": 16},
}


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


RANDOM = np.random.default_rng(0)
VECTORS = unit(np.repeat(RANDOM.normal(size=(40, D)), V // 40, axis=0) + 0.8 * RANDOM.normal(size=(V, D)))
QUERIES = unit(VECTORS[:60] + 0.2 * RANDOM.normal(size=(60, D)))


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {factory: build_index(VECTORS, factory) for factory in KINDS}


def naive(query: Any, vectors: Any, k: int, allowed: Any = None) -> list[int]:
    """One query's best rows: a stable sort of all in float64."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    best: list[int] = np.argsort(-scores, kind="stable").tolist()
    return [row for row in best if allowed is None or allowed[row]][:k]


def recall(rows: Any, queries: Any, vectors: Any, allowed: Any = None) -> float:
    truth = [naive(query, vectors, rows.shape[1], allowed) for query in queries]
    return float(np.mean([len({*map(int, row)} & {*best}) / len(best) for row, best in zip(rows, truth, strict=True)]))


def is_in_order(scores: Any, rows: Any, queries: Any, vectors: Any) -> None:
    """Each row once, with its own dot product, best first and ties by row."""
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    for row_scores, row in zip(scores.tolist(), rows.tolist(), strict=True):
        assert len(set(row)) == len(row)
        pairs = [(-s, r) for s, r in zip(row_scores, row, strict=True)]
        assert pairs == sorted(pairs)


@pytest.mark.parametrize("factory", KINDS)
def test_finds_nearly_all_and_scores_are_dot_products(built: dict[str, Any], factory: str) -> None:
    scores, rows = ItemIndex(built[factory], VECTORS, KINDS[factory], 40).search(QUERIES, K)
    assert (scores.shape, scores.dtype, rows.dtype) == ((60, K), np.float32, np.int64)
    is_in_order(scores, rows, QUERIES, VECTORS)
    found = recall(rows, QUERIES, VECTORS)
    assert found == 1 if factory == "Flat" else found > 0.9
    alone = [ItemIndex(built[factory], VECTORS, KINDS[factory], 40).search(query[None], K) for query in QUERIES[:9]]
    for (own_scores, own_rows), batch_scores, batch_rows in zip(alone, scores[:9], rows[:9], strict=True):
        assert own_rows[0].tolist() == batch_rows.tolist()
        np.testing.assert_allclose(own_scores[0], batch_scores, atol=1e-6)


def test_more_candidates_find_more(built: dict[str, Any]) -> None:
    few, many = (ItemIndex(built["IVF64,SQ4"], VECTORS, {"nprobe": 16}, n).search(QUERIES, K)[1] for n in (1, 10))
    assert recall(few, QUERIES, VECTORS) < recall(many, QUERIES, VECTORS)


@pytest.mark.parametrize("share", [0.6, 0.2, 0.03])
@pytest.mark.parametrize("factory", KINDS)
def test_only_allowed_items_and_as_many_as_there_are(built: dict[str, Any], factory: str, share: float) -> None:
    allowed = np.random.default_rng(1).random(V) < share
    index = ItemIndex(built[factory], VECTORS, KINDS[factory], 20)
    scores, rows = index.search(QUERIES, K, allowed)
    assert allowed[rows].all()
    is_in_order(scores, rows, QUERIES, VECTORS)
    assert recall(rows, QUERIES, VECTORS, allowed) > (0.99 if share == 0.03 or factory == "Flat" else 0.85)
    every = index.search(QUERIES[:5], V, allowed)[1]
    assert [sorted(row) for row in every.tolist()] == [np.flatnonzero(allowed).tolist()] * 5


@pytest.mark.parametrize("factory", KINDS)
def test_few_that_are_far_from_the_query(built: dict[str, Any], factory: str) -> None:
    """Where the index would look at other places first."""
    far = np.argsort(VECTORS @ QUERIES[0])[: V // 10]
    allowed = np.zeros(V, dtype=bool)
    allowed[far] = True
    scores, rows = ItemIndex(built[factory], VECTORS, KINDS[factory], 1).search(QUERIES[:1], K, allowed)
    assert rows.shape == (1, K)
    assert allowed[rows].all()
    is_in_order(scores, rows, QUERIES[:1], VECTORS)
    assert recall(rows, QUERIES[:1], VECTORS, allowed) > 0.8


def test_a_filter_widens_the_search(built: dict[str, Any]) -> None:
    """Two lists would hold few of the tenth that is allowed."""
    allowed = np.random.default_rng(1).random(V) < 0.1
    index = ItemIndex(built["IVF64,SQfp16"], VECTORS, {"nprobe": 2}, 1)
    assert recall(index.search(QUERIES, K, allowed)[1], QUERIES, VECTORS, allowed) > 0.9
    assert recall(index.search(QUERIES, K)[1], QUERIES, VECTORS) < 0.8


@pytest.mark.parametrize("factory", KINDS)
def test_more_answers_than_items_or_than_a_narrow_search_finds(built: dict[str, Any], factory: str) -> None:
    narrow = {name: 1 for name in KINDS[factory]}
    index = ItemIndex(built[factory], VECTORS, narrow, 1)
    for k in (500, V, V + 7):
        scores, rows = index.search(QUERIES[:3], k)
        assert rows.shape == (3, min(k, V))
        is_in_order(scores, rows, QUERIES[:3], VECTORS)
    none = np.zeros(V, dtype=bool)
    assert [part.shape for part in index.search(QUERIES[:3], 5, none)] == [(3, 0), (3, 0)]
    none[7] = True
    assert index.search(QUERIES[:3], 5, none)[1].tolist() == [[7], [7], [7]]
    assert [part.shape for part in index.search(QUERIES[:0], 5)] == [(0, 5), (0, 5)]


@pytest.mark.parametrize("factory", KINDS)
def test_ties_and_items_that_are_twins(factory: str) -> None:
    twins = np.repeat(VECTORS[::50], 30, axis=0)
    index = ItemIndex(build_index(twins, factory), twins, KINDS[factory], 10)
    scores, rows = index.search(QUERIES, 40)
    is_in_order(scores, rows, QUERIES, twins)
    assert (scores[:, 0] == scores[:, 29]).mean() > (0.99 if factory == "Flat" else 0.3)


@pytest.mark.parametrize("factory", KINDS)
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_small_catalogues_keep_their_recipe(factory: str, size: int) -> None:
    """As after a delta that removed most items."""
    vectors = VECTORS[:size]
    index = build_index(vectors, factory)
    assert index.ntotal == size
    assert check_index(index, vectors, {"factory": factory}) is None
    rows = ItemIndex(index, vectors, KINDS[factory], 10).search(QUERIES[:4], K)[1]
    assert rows.tolist() == [naive(query, vectors, K) for query in QUERIES[:4]]


@pytest.mark.parametrize("factory", KINDS)
def test_vectors_of_any_length(factory: str) -> None:
    """As with similarity dot."""
    long = VECTORS * RANDOM.uniform(0.5, 3, size=(V, 1)).astype(np.float32)
    index = build_index(long, factory)
    assert check_index(index, long, {"factory": factory}) is None
    scores, rows = ItemIndex(index, long, {name: 64 for name in KINDS[factory]}, 10).search(QUERIES, K)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", QUERIES, long[rows]), atol=1e-5)
    assert recall(rows, QUERIES, long) > 0.9


@pytest.mark.parametrize("factory", KINDS)
def test_building_is_repeatable_from_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str) -> None:
    monkeypatch.setattr(module, "ROWS", 300)  # added in seven parts, trained on a sample where lists allow it
    np.save(tmp_path / "vectors.npy", VECTORS)
    built = [build_index(v, factory) for v in (VECTORS, np.load(tmp_path / "vectors.npy", mmap_mode="r"))]
    first, second = (faiss.serialize_index(index) for index in built)
    assert np.array_equal(first, second)
    index = ItemIndex(built[0], VECTORS, KINDS[factory], 10)
    assert recall(index.search(QUERIES, K)[1], QUERIES, VECTORS) > 0.85


@pytest.mark.parametrize("factory", KINDS)
def test_lists_of_another_make_no_difference(built: dict[str, Any], factory: str) -> None:
    centres = centres_of(built["IVF64,SQ8"])
    assert centres is not None
    assert centres.shape == (64, D)
    for given in (centres, centres[:9]):  # those of as many lists, and of others
        index = build_index(VECTORS, factory, given)
        assert np.array_equal(faiss.serialize_index(index), faiss.serialize_index(built[factory]))
    assert (centres_of(index) is None) == (not factory.startswith("IVF"))


def test_scan_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 64)
    for allowed in (None, RANDOM.random(V) < 0.3):
        scores, rows = scan(QUERIES, VECTORS, 100, allowed)
        assert rows.tolist() == [naive(query, VECTORS, 100, allowed) for query in QUERIES]
        is_in_order(scores, rows, QUERIES, VECTORS)


@pytest.mark.parametrize("factory", ["Flat", "IVF64,SQfp16", "IVF64,SQ8"])
def test_threads_share_one(built: dict[str, Any], factory: str) -> None:
    """Each with its own filter and its own k."""
    index = ItemIndex(built[factory], VECTORS, KINDS[factory], 4)
    before = faiss.serialize_index(built[factory])
    jobs = [
        (QUERIES[i % 7 :: 7], 1 + i % 13, np.random.default_rng(i).random(V) < (0.9, 0.4, 0.02)[i % 3], 1 + i % 2)
        for i in range(30)
    ]
    alone = [index.search(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: index.search(*job), jobs * 2))
    for (scores, rows), (expected_scores, expected) in zip(together, alone * 2, strict=True):
        assert np.array_equal(rows, expected)
        assert np.array_equal(scores, expected_scores)
    assert np.array_equal(before, faiss.serialize_index(built[factory]))


def test_uses_no_pool_of_faiss(built: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    index = ItemIndex(built["Flat"], VECTORS, {}, 1)
    before, taken = faiss.omp_get_max_threads(), []
    real = module.ItemIndex._ask
    monkeypatch.setattr(module.ItemIndex, "_ask", lambda *a: (taken.append(faiss.omp_get_max_threads()), real(*a))[1])
    for queries, threads in ((1, 4), (2, 4), (9, 3), (9, 1)):
        index.search(QUERIES[:queries], K, threads=threads)
    assert taken == [1] * (1 + 2 + 3 + 1)
    with pytest.raises(AssertionError):
        index.search(QUERIES[:, :3], K)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("factory", KINDS)
def test_check_accepts_the_index_of_the_vectors_and_no_other(built: dict[str, Any], factory: str) -> None:
    facts = {"factory": factory}
    index = faiss.deserialize_index(faiss.serialize_index(built[factory]))
    assert check_index(index, VECTORS, facts) is None
    other = unit(np.random.default_rng(9).normal(size=(V, D)))
    swapped = np.concatenate([VECTORS[V // 2 :], VECTORS[: V // 2]])
    near = unit(VECTORS + 0.3 * RANDOM.normal(size=(V, D)))  # as of the same data trained again
    for vectors in (other, VECTORS[::-1], np.roll(VECTORS, 1, axis=0), swapped, -VECTORS, near):
        assert check_index(index, vectors, facts) == ("other vectors", "those of the embeddings, in their order")
    assert check_index(index, VECTORS[:-1], facts) == ("1000 vectors of dim 16", "999 of 16")
    assert check_index(index, VECTORS[:, :8], facts) == ("1000 vectors of dim 16", "1000 of 8")
    l2 = faiss.index_factory(D, factory, faiss.METRIC_L2)
    l2.train(VECTORS)
    l2.add(VECTORS)
    found, expected = check_index(l2, VECTORS, facts) or ("", "")
    assert found.startswith("Index")
    assert "metric" in found
    assert "inner-product" in expected


def test_check_tells_recipes_apart(built: dict[str, Any]) -> None:
    factories = [*KINDS, "IVF32,SQ8", "IVF64,SQ6", "HNSW16", "IVF64,PQ4x4fsr", "SQ6", "PQ4x4", "IVF64,RaBitQfs"]
    for factory, index in built.items():
        fitting = [other for other in factories if check_index(index, VECTORS, {"factory": other}) is None]
        assert fitting == [factory]
    found, expected = check_index(built["Flat"], VECTORS, {"factory": "Float"}) or ("", "")
    assert found == "IndexFlat"
    assert "'Float'" in expected
    found, expected = check_index(built["IVF64,SQ8"], VECTORS, {"factory": "Flat"}) or ("", "")
    assert "IndexIVFScalarQuantizer" in found
    assert "IndexFlat" in expected
    assert "'Flat'" in expected


@pytest.mark.parametrize("factory", ["HNSW8", "SQ8", "IVF64,PQ8x4fsr", "RaBitQ"])
def test_check_refuses_other_kinds_of_index(factory: str) -> None:
    index = faiss.index_factory(D, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    found, _ = check_index(index, VECTORS, {"factory": factory}) or ("", "")
    assert found.startswith("Index")


def test_check_of_a_flat_index_sees_one_number(built: dict[str, Any]) -> None:
    changed = VECTORS.copy()
    changed[777, 5] += 1e-6
    assert check_index(built["Flat"], changed, {"factory": "Flat"}) is not None


def test_facts_are_plain() -> None:
    """The search settings come from JSON."""
    search = json.loads('{"nprobe": 64}')
    assert ItemIndex(build_index(VECTORS, "IVF64,SQ8"), VECTORS, search, 4).search(QUERIES, K)[1].shape == (60, K)
