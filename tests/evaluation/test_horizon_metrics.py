"""Relevant items within a horizon and the metrics of lists, against naive loops and by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from twotower.core.event_codes import MS_PER_DAY
from twotower.core.schema import PAD, Prepared
from twotower.data.horizon import events_ahead
from twotower.data.loader import query_loader, training_loader
from twotower.evaluation import horizon_metrics
from twotower.evaluation.evaluate_run import Settings, evaluate_results
from twotower.evaluation.horizon_metrics import RelevantItems, list_values
from twotower.evaluation.verdicts import horizon_rows
from twotower.metrics.queries import queries_of
from twotower.metrics.ranking_results import RankingResults
from twotower.training.callbacks.horizon import HorizonMetrics

ITEMS, TYPES = 12, ("view", "buy", "remove")


@pytest.fixture(scope="module")
def prepared(make_prepared: Any) -> Prepared:
    """Sessions with many repeats and equal times, cut anywhere into three parts."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 16, 70)
    train = [int(random.integers(0, n + 1)) for n in lengths]
    validation = [int(random.integers(0, n - t + 1)) for n, t in zip(lengths, train, strict=True)]
    gaps = [random.choice([0, 0, 1, MS_PER_DAY, 3 * MS_PER_DAY], n) for n in lengths]
    prepared: Prepared = make_prepared(
        [random.integers(1, ITEMS + 1, n).tolist() for n in lengths], train, validation, ITEMS,
        types=[random.integers(0, 3, n).tolist() for n in lengths], event_types=TYPES,
        timestamps=[(1_700_000_000_000 + np.cumsum(gap)).tolist() for gap in gaps],
        inputs={"gap": [[1] * n for n in lengths]},
    )  # fmt: skip
    return prepared


def events_of(prepared: Prepared, part: str, weights: dict[str, float] | None = None) -> Any:
    batches = query_loader(prepared, part, 5, 64, target_weights=weights)
    return np.sort(np.concatenate([queries_of(batch).event.numpy() for batch in batches]))


def relevant_to(prepared: Prepared, event: int, end: Any, horizon: str | float, types: set[int]) -> set[int]:
    """Distinct items ahead of the query whose target is `event`, by a loop."""
    session = next(s for s, stop in enumerate(prepared.offsets[1:].tolist()) if event < stop)
    asked, items = prepared.timestamp[event - 1], set()
    for later in range(event, int(end[session])):
        is_near = horizon == "session" or prepared.timestamp[later] - asked <= float(horizon) * MS_PER_DAY
        if (later == event or is_near) and int(prepared.event_type[later]) in types:
            items.add(int(prepared.item_index[later]))
    return items


@pytest.mark.parametrize("horizon", ["session", 3, 1 / 86_400_000])
@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("types", [{0, 1, 2}, {1}])
def test_relevant_items_are_those_of_a_loop(prepared, monkeypatch, horizon: Any, part: str, types: set[int]) -> None:
    monkeypatch.setattr(horizon_metrics, "QUERIES_AT_ONCE", 10)
    event = events_of(prepared, part)
    end = prepared.validation_end if part == "validation" else prepared.offsets[1:]
    expected = [relevant_to(prepared, e, end, horizon, types) for e in event.tolist()]
    ahead = events_ahead(horizon, prepared, end)
    assert ahead is not None
    relevant = RelevantItems(event, ahead, prepared.item_index, np.isin(prepared.event_type, list(types)))
    assert relevant.number.tolist() == [len(items) for items in expected]
    lists = np.tile(np.arange(PAD, ITEMS + 1), (len(event), 1))
    found = relevant.contain(lists)
    assert [set(np.flatnonzero(row).tolist()) for row in found] == expected
    assert len({len(items) for items in expected}) > 2


def test_without_an_event_that_counts_nothing_is_relevant(prepared: Prepared) -> None:
    event = events_of(prepared, "test")
    ahead = events_ahead("session", prepared, prepared.offsets[1:])
    assert ahead is not None
    relevant = RelevantItems(event, ahead, prepared.item_index, np.zeros(len(prepared.item_index), dtype=bool))
    assert not relevant.number.any() and not relevant.contain(np.full((len(event), 3), 1)).any()


def test_values_by_hand() -> None:
    # Of 2 relevant items the first and the third place; of 4 none; of 30 all three places of a short list.
    is_relevant = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=bool)
    values = list_values(is_relevant, np.array([2, 4, 30]), ks=[1, 2, 3, 20])
    ideal = 1 + 1 / np.log2(3)
    assert values["recall_at_1"].tolist() == [1, 0, 1]
    assert values["recall_at_2"].tolist() == [0.5, 0, 1]
    assert values["recall_at_20"].tolist() == [1, 0, 3 / 20]
    np.testing.assert_allclose(values["ndcg_at_2"], [1 / ideal, 0, 1])
    np.testing.assert_allclose(values["ndcg_at_3"], [1.5 / ideal, 0, 1])
    of_20 = sum(1 / np.log2(rank + 1) for rank in range(1, 21))
    np.testing.assert_allclose(values["ndcg_at_20"], [1.5 / ideal, 0, (ideal + 0.5) / of_20])


@pytest.mark.parametrize("weights", [None, {"buy": 3, "remove": -1}])
def test_an_evaluation_measures_model_and_baselines_by_type(prepared: Prepared, weights: Any) -> None:
    test = query_loader(prepared, "test", 5, 64, target_weights=weights)
    event = events_of(prepared, "test", weights)
    random = np.random.default_rng(1)
    top = np.stack([random.permutation(ITEMS) + 1 for _ in event]).astype(np.int32)
    ranking = RankingResults(event, np.zeros(len(event), np.int32), np.ones(len(event), np.int32), top)
    scores = torch.arange(ITEMS).float()
    extra = {"by_number": lambda **_: lambda history: scores.expand(len(history), -1)}
    settings = Settings([1, 3, 20], True, False, 5, weights, 0, 0, extra, horizon=3)
    vectors = random.normal(size=(ITEMS, 4)).astype(np.float32)
    evaluation = evaluate_results(prepared, test, ranking, vectors, settings)
    positive = [0, 1] if weights else [0, 1, 2]
    for name, types in {"": set(positive), **{f"{TYPES[code]}/": {code} for code in positive}}.items():
        expected, beside = [], []
        for e, items in zip(event.tolist(), top.tolist(), strict=True):
            if relevant := relevant_to(prepared, e, prepared.offsets[1:], 3, types):
                expected.append(len(relevant & set(items[:3])) / min(3, len(relevant)))
                beside.append(len(relevant & {ITEMS, ITEMS - 1, ITEMS - 2}) / min(3, len(relevant)))
        assert evaluation.metrics[f"test/horizon/{name}recall_at_3"] == pytest.approx(np.mean(expected))
        assert evaluation.metrics[f"baseline/by_number/horizon/{name}recall_at_3"] == pytest.approx(np.mean(beside))
        assert evaluation.metrics[f"test/horizon/{name}recall_at_20"] == 1, "the lists have all items"
    assert "test/horizon/remove/recall_at_3" not in evaluation.metrics or not weights
    rows = horizon_rows(evaluation.summary)
    assert rows[0][0] == "recall@20 of the next 3 days"
    assert [row[0] for row in rows[1:]] == ["any type", *(TYPES[code] for code in positive)]


def test_validation_logs_what_its_lists_hold(prepared: Prepared, make_module: Any, make_trainer: Any) -> None:
    loader = training_loader(prepared, 5, 64, seed=0, horizon=3)
    module = make_module(loader, "gru", 1)
    validation = query_loader(prepared, "validation", 5, 64, target_weights={"remove": 0})
    (logged,) = make_trainer(1, HorizonMetrics(3, [2, 50])).validate(module, validation, verbose=False)
    results = module.results()
    assert results.event.tolist() == events_of(prepared, "validation", {"remove": 0}).tolist()
    for name, types in {"": {0, 1}, "buy/": {1}}.items():
        values = [
            len(relevant & set(items[:2])) / min(2, len(relevant))
            for event, items in zip(results.event.tolist(), results.top.tolist(), strict=True)
            if (relevant := relevant_to(prepared, event, prepared.validation_end, 3, types))
        ]
        assert logged[f"val/horizon/{name}recall_at_2"] == pytest.approx(np.mean(values))
    assert not any("50" in name and "horizon" in name for name in logged), "lists are of 20"
    (logged,) = make_trainer(1, HorizonMetrics("next", [2])).validate(module, validation, verbose=False)
    assert not any("horizon" in name for name in logged)


def test_the_next_event_has_no_table_of_its_own() -> None:
    assert horizon_rows({"horizon": None}) == horizon_rows({}) == []
