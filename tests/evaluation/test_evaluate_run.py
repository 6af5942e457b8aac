"""The evaluation of planted results, in this process: metrics, weights, ceiling and warnings by hand."""

from typing import Any

import numpy as np
import pytest

from twotower.core.files import read_json, write_json
from twotower.core.schema import CEILING_FILE, FEATURES_FILE, Prepared, read_item_features
from twotower.data.loader import SessionLoader, query_loader
from twotower.evaluation.evaluate_run import Evaluation, Settings, evaluate_results
from twotower.metrics.queries import queries_of
from twotower.metrics.ranking_results import RankingResults

ITEMS, SESSIONS = 30, 80
SETTINGS = Settings([10, 20], True, False, 5, None, 50, 0)


@pytest.fixture(scope="module")
def prepared(make_prepared: Any) -> Prepared:
    random = np.random.default_rng(0)
    sessions = [random.integers(1, ITEMS + 1, 6).tolist() for _ in range(SESSIONS)]
    types = [random.integers(0, 2, 6).tolist() for _ in range(SESSIONS)]
    prices = np.append(random.uniform(1, 9, ITEMS - 1), np.nan).astype(np.float32)
    prepared = make_prepared(
        sessions, [3] * SESSIONS, [1] * SESSIONS, ITEMS, types, event_types=("view", "buy"),
        item_features={"price.price": prices},
    )  # fmt: skip
    encoders = read_json(prepared.path / FEATURES_FILE, "")
    write_json(prepared.path / FEATURES_FILE, {**encoders, "items": {"price": {"kind": "numeric"}}})
    return prepared


@pytest.fixture(scope="module")
def test_queries(prepared: Prepared) -> SessionLoader:
    return query_loader(prepared, "test", 5, 64)


@pytest.fixture(scope="module")
def ranking(test_queries: SessionLoader) -> RankingResults:
    event = np.sort(np.concatenate([queries_of(batch).event.numpy() for batch in test_queries]))
    random = np.random.default_rng(1)
    better = random.integers(0, ITEMS, len(event)).astype(np.int32)
    top = np.stack([random.permutation(ITEMS)[:20] + 1 for _ in event]).astype(np.int32)
    return RankingResults(event, better, np.ones_like(better), top)


def evaluate(prepared: Prepared, queries: SessionLoader, ranking: RankingResults, settings: Settings) -> Evaluation:
    vectors = np.random.default_rng(2).normal(size=(ITEMS, 8)).astype(np.float32)
    return evaluate_results(prepared, queries, ranking, vectors, settings)


def test_model_and_baselines_are_in_summary_and_metrics(
    prepared: Prepared, test_queries: SessionLoader, ranking: RankingResults
) -> None:
    evaluation = evaluate(prepared, test_queries, ranking, SETTINGS)
    rankers = evaluation.summary["rankers"]
    assert rankers["model"]["recall_at_20"][0] == pytest.approx((ranking.better < 20).mean())
    assert set(rankers) == {"model", *evaluation.summary["model_minus"]} and len(rankers) == 8
    for name in evaluation.summary["model_minus"]:
        expected = rankers[name]["recall_at_20"][0]
        assert evaluation.metrics[f"baseline/{name}/recall_at_20"] == pytest.approx(expected, abs=1e-6)
    metrics = evaluation.metrics
    assert metrics["test/coverage_at_20"] == evaluation.summary["catalogue"]["coverage"] == 1
    assert metrics["test/recall_at_20_low"] < rankers["model"]["recall_at_20"][0] < metrics["test/recall_at_20_high"]
    assert evaluation.summary["health"] == []
    training = prepared.item_index[prepared.training_mask(False)]
    assert evaluation.counts.tolist() == np.bincount(training, minlength=ITEMS + 1).tolist()
    assert evaluation.saved.ranking is ranking and evaluation.history.shape == (len(ranking.event), 5)


def test_queries_are_weighted_by_type_and_price(
    prepared: Prepared, test_queries: SessionLoader, ranking: RankingResults
) -> None:
    settings = SETTINGS._replace(baselines=False, target_weights={"buy": 3})
    evaluation = evaluate(prepared, test_queries, ranking, settings)
    assert list(evaluation.summary["rankers"]) == ["model"] and evaluation.summary["best_baseline"] is None
    weight = np.where(prepared.event_type[ranking.event] == 1, 3.0, 1.0)
    expected = ((ranking.better < 20) * weight).sum() / weight.sum()
    assert evaluation.metrics["test/weighted_recall_at_20"] == pytest.approx(expected)
    price = np.nan_to_num(read_item_features(prepared.path)["price.price"][prepared.item_index[ranking.event] - 1])
    expected = ((ranking.better < 20) * price).sum() / price.sum()
    assert evaluation.metrics["test/revenue_recall_at_20"] == pytest.approx(expected)


def test_the_ceiling_is_that_of_all_queries(
    prepared: Prepared, test_queries: SessionLoader, ranking: RankingResults
) -> None:
    write_json(prepared.path / CEILING_FILE, {"recall_at_20": 0.75})
    settings = SETTINGS._replace(baselines=False)
    assert evaluate(prepared, test_queries, ranking, settings).metrics["ceiling/recall_at_20"] == 0.75
    weighted = settings._replace(target_weights={"buy": 3})
    assert "ceiling/recall_at_20" not in evaluate(prepared, test_queries, ranking, weighted).metrics
    (prepared.path / CEILING_FILE).unlink()
