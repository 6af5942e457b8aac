"""Which index is chosen, and what is said of it. Shapes: V items, Q queries, k answers."""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from twotower.core.errors import UserError
from twotower.exporting import choose_index as module
from twotower.exporting.choose_index import choose_index, filter_recall, recipes
from twotower.serving.index import ItemIndex, build_index, check_index

V, D, K = 2000, 16, 20
RANDOM = np.random.default_rng(0)
VECTORS = np.repeat(RANDOM.normal(size=(40, D)), V // 40, axis=0) + 0.8 * RANDOM.normal(size=(V, D))
VECTORS = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)
QUERIES = (VECTORS[::40] + 0.1 * RANDOM.normal(size=(50, D))).astype(np.float32)
FAMILIES = ["exact", "ivf"]
CONF = Path(__file__).parents[2] / "conf" / "index"


def exact_rows(queries: Any, k: int, allowed: Any = None) -> Any:
    """[Q, k] by a full sort."""
    scores = queries.astype(np.float64) @ VECTORS.astype(np.float64).T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


TRUTH = exact_rows(QUERIES, K)


def overlap(rows: Any, truth: Any) -> float:
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of few calls, by which nothing is left untried: on a busy machine they say little."""
    monkeypatch.setattr(module, "CALLS", 30)
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module, "SLOWEST", float("inf"))


def settings(*families: str, target_recall: float = 0.95, exact_below: int = 0) -> dict[str, Any]:
    return {"families": list(families), "target_recall": target_recall, "exact_below": exact_below}


@pytest.fixture(scope="module")
def everything() -> module.Choice:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CALLS", 30)
        patch.setattr(module, "SECONDS", 0.01)
        patch.setattr(module, "SLOWEST", float("inf"))
        return choose_index(VECTORS, QUERIES, **settings(*FAMILIES))


def test_rows_say_what_each_index_finds(everything: module.Choice) -> None:
    """Built and asked again, and counted against a full sort."""
    tried = everything.facts["tried"]
    assert {row["kind"] for row in tried} == set(FAMILIES)
    assert tried[0]["kind"] == "exact"
    assert (tried[0]["recall"], tried[0]["search"]) == (1.0, {})
    indexes = {factory: build_index(VECTORS, factory) for factory in {row["factory"] for row in tried}}
    for row in tried:
        index = indexes[row["factory"]]
        rows = ItemIndex(index, VECTORS, row["search"], row["rerank"]).search(QUERIES, K)[1]
        assert row["recall"] == pytest.approx(overlap(rows, TRUTH), abs=0.002)
        size = faiss.serialize_index(index).size / V + (4 * D if row["kind"] != "exact" else 0)
        assert row["bytes_per_item"] == pytest.approx(size, abs=0.1)
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["build_s"] >= 0


def test_the_fastest_that_finds_enough_is_chosen(everything: module.Choice) -> None:
    facts = everything.facts
    enough = [row for row in facts["tried"] if row["recall"] >= 0.95]
    (chosen,) = [row for row in facts["tried"] if all(row[n] == facts[n] for n in ("factory", "search", "rerank"))]
    assert chosen["recall"] == facts["recall"] >= 0.95
    assert chosen["kind"] == facts["kind"]
    fastest = min(row["p50_ms"] for row in enough)
    assert chosen["p50_ms"] <= 1.05 * fastest
    assert chosen["bytes_per_item"] == min(r["bytes_per_item"] for r in enough if r["p50_ms"] <= 1.05 * fastest)
    assert facts["reason"] == f"the fastest of {len(facts['tried'])} tried that finds 0.95 of the exact 20 best"
    assert check_index(everything.index, VECTORS, facts) is None
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(("times", "chosen"), [((9.0, 1.0, 0.97), "b"), ((9.0, 1.0, 0.9), "c"), ((0.5, 1.0, 9.0), "a")])
def test_of_those_about_as_fast_the_smallest(times: tuple[float, ...], chosen: str) -> None:
    rows = [
        {"factory": name, "recall": recall, "p50_ms": time, "bytes_per_item": size}
        for name, recall, time, size in zip("abc", (0.99, 0.99, 0.995), times, (9, 10, 20), strict=True)
    ]
    rows.append({"factory": "misses", "recall": 0.98, "p50_ms": 0.01, "bytes_per_item": 1})
    best = module._fastest(rows, 0.99)
    assert best and best["factory"] == chosen


def test_inverted_files_alone() -> None:
    choice = choose_index(VECTORS, QUERIES, **settings("ivf"))
    assert choice.facts["kind"] == "ivf", "though exact search, which is not asked for, may be faster"
    assert {row["kind"] for row in choice.facts["tried"]} == {"exact", "ivf"}
    assert check_index(choice.index, VECTORS, choice.facts) is None
    index = ItemIndex(choice.index, VECTORS, choice.facts["search"], choice.facts["rerank"])
    assert overlap(index.search(QUERIES, K)[1], TRUTH) >= 0.949


def test_slow_searches_are_not_made_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOWEST", 0.0)
    rows = choose_index(VECTORS, QUERIES, **settings("ivf", target_recall=1.0)).facts["tried"][1:]
    assert [(row["search"], row["rerank"]) for row in rows] == [({"nprobe": 1}, rerank) for rerank in (1, 1, 2, 4)]


def test_exact_where_nothing_finds_enough() -> None:
    short = settings("ivf", target_recall=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GAIN", 2.0)  # nothing gains as much: only the least thorough searches are tried
        choice = choose_index(VECTORS, QUERIES, **short)
    facts = choice.facts
    assert (facts["kind"], facts["factory"], facts["search"], facts["rerank"], facts["recall"]) == (
        "exact", "Flat", {}, 1, 1.0,
    )  # fmt: skip
    assert facts["reason"] == "exact search, as no inverted file that was tried finds 1 of the exact 20 best"
    assert {row["kind"] for row in facts["tried"]} == {"exact", "ivf"}
    assert check_index(choice.index, VECTORS, facts) is None


def test_exact_alone_for_small_catalogues() -> None:
    small = choose_index(VECTORS, QUERIES, **settings(*FAMILIES, exact_below=V + 1))
    assert [row["factory"] for row in small.facts["tried"]] == ["Flat"]
    assert small.facts["reason"] == "exact search, as there are fewer than 2,001 items"
    alone = choose_index(VECTORS, QUERIES, **settings("exact"))
    assert [row["factory"] for row in alone.facts["tried"]] == ["Flat"]
    assert alone.facts["reason"] == "exact search, as nothing else was asked for"
    others = choose_index(VECTORS, QUERIES, **settings("exact", "ivf", exact_below=V))
    assert len(others.facts["tried"]) > 1


@pytest.mark.parametrize("size", [1, 3, 30])
def test_small_catalogues_with_all_tried(size: int) -> None:
    choice = choose_index(VECTORS[:size], QUERIES, **settings(*FAMILIES))
    assert choice.facts["recall"] == 1
    assert choice.index.ntotal == size


@pytest.mark.parametrize("dim", [1, 5, 12])
def test_any_dimension(dim: int) -> None:
    vectors = np.ascontiguousarray(VECTORS[:400, :dim])
    choice = choose_index(vectors, QUERIES[:, :dim], **settings(*FAMILIES))
    assert choice.facts["recall"] >= 0.95


def test_ties_count_as_found() -> None:
    twins = np.repeat(VECTORS[:10], 50, axis=0)
    choice = choose_index(twins, QUERIES, **settings("ivf"))
    assert choice.facts["recall"] == 1.0


def test_recipes_for_large_catalogues() -> None:
    assert recipes(1_000_000)["ivf"] == {"IVF4096,SQfp16": (1,), "IVF4096,SQ8": (1, 2, 4)}
    assert list(recipes(10_000_000)["ivf"]) == ["IVF16384,SQfp16", "IVF16384,SQ8"]


def test_wrong_settings() -> None:
    with pytest.raises(UserError, match=r"index.families has ivff; expected some of exact, .*; did you mean 'ivf'"):
        choose_index(VECTORS, QUERIES, **settings("ivff"))
    for target in (0.0, 1.5):
        with pytest.raises(UserError, match=f"index.target_recall={target:g}; expected a share"):
            choose_index(VECTORS, QUERIES, **settings("exact", target_recall=target))


@pytest.mark.parametrize("name", [file.stem for file in CONF.glob("*.yaml")])
def test_settings_files(name: str) -> None:
    with initialize_config_dir(str(CONF.parent), version_base=None):
        found = compose("export", overrides=["run=R", f"index={name}", "index.target_recall=0.9"]).index
    assert found.keys() == {"families", "target_recall", "exact_below"}
    assert found.target_recall == 0.9
    assert found.exact_below == (200_000 if name in ("auto", "exact") else 0)
    choice = choose_index(VECTORS[:300], QUERIES, **found)
    assert choice.facts["kind"] in [*found.families, "exact"]


@pytest.mark.parametrize(("factory", "search"), [("Flat", {}), ("IVF64,SQ8", {"nprobe": 8})])
def test_filters(factory: str, search: dict[str, int]) -> None:
    index = ItemIndex(build_index(VECTORS, factory), VECTORS, search, 2)
    masks = {f"{share:g}": np.random.default_rng(2).random(V) < share for share in (0.5, 0.05)}
    masks |= {"two": np.isin(np.arange(V), [4, 9]), "none": np.zeros(V, bool)}
    rows = filter_recall(index, VECTORS, QUERIES, K, masks)
    assert [row["filter"] for row in rows] == [*masks]
    for row, mask in zip(rows, masks.values(), strict=True):
        assert row["allowed"] == mask.mean()
        assert row["p50_ms"] > 0
        truth = exact_rows(QUERIES, min(K, int(mask.sum())), mask)
        found = index.search(QUERIES, K, mask)[1]
        assert row["recall"] == pytest.approx(overlap(found, truth) if truth.size else 1, abs=0.002)
    assert [row["recall"] for row in rows[1:]] == [1, 1, 1] or factory == "IVF64,SQ8"
