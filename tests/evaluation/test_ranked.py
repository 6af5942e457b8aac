"""An evaluation under exclude_seen and filters: a naive loop over queries and items for model and baselines alike."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from twotower.core.errors import UserError
from twotower.core.schema import CATALOGUE_FILE, Prepared
from twotower.data.loader import query_loader
from twotower.evaluation.evaluate_run import Settings, evaluate_results
from twotower.evaluation.ranked import ranked_items
from twotower.metrics.queries import queries_of
from twotower.metrics.ranking_results import RankingResults, concatenate_results
from twotower.metrics.ranks import rank_and_list

ITEMS, SESSIONS = 40, 20
FILTERS = [None, {"price": {"max": 24}}, {"brand": ["a", "b"], "price": {"min": 3}}, {"not": {"brand": "c"}}]


@pytest.fixture(scope="module")
def prepared(make_prepared: Any) -> Prepared:
    random = np.random.default_rng(0)
    sessions = [random.integers(1, ITEMS + 1, 9).tolist() + random.integers(1, 6, 3).tolist() for _ in range(SESSIONS)]
    types = [random.integers(0, 2, 12).tolist() for _ in range(SESSIONS)]
    prepared = make_prepared(sessions, [4] * SESSIONS, [1] * SESSIONS, ITEMS, types, event_types=("view", "buy"))
    table = pq.read_table(prepared.path / CATALOGUE_FILE)
    brands = pa.array([None if i % 7 == 0 else "abcd"[i % 4] for i in range(ITEMS)], pa.large_string())
    table = table.append_column("price", pa.array(np.arange(ITEMS) * 1.0)).append_column("brand", brands)
    pq.write_table(table, prepared.path / CATALOGUE_FILE)
    return prepared


def allows(filters: dict[str, Any] | None, item: int) -> bool:
    """The filters above, by hand."""
    row, number = item - 1, FILTERS.index(filters)
    brand = None if row % 7 == 0 else "abcd"[row % 4]
    return [True, row <= 24, brand in ("a", "b") and row >= 3, brand != "c"][number]


@pytest.mark.parametrize(
    ("filters", "exclude_seen"),
    [(None, False), (None, True), (FILTERS[1], False), (FILTERS[2], True), (FILTERS[3], True)],
)
def test_model_and_baselines_rank_what_requests_would_get(
    prepared: Prepared, filters: dict[str, Any] | None, exclude_seen: bool
) -> None:
    test = query_loader(prepared, "test", 5, 64)  # histories are longer than what the model sees of them
    ranked = ranked_items(prepared, exclude_seen, filters)
    items = np.random.default_rng(1).normal(size=(ITEMS, 6)).astype(np.float32)
    parts = []
    for batch in test:
        queries = queries_of(batch)
        user = torch.from_numpy(items[queries.event.numpy() % ITEMS])  # any vectors will do
        restrict = ranked.restriction(queries.event)
        results = rank_and_list(user, torch.from_numpy(items), queries.target, 20, restrict)
        parts.append(RankingResults.of(queries.event, *results))
    ranking = concatenate_results(parts)
    settings = Settings([20], True, False, 5, None, 0, 0, exclude_seen=exclude_seen, filters=filters)
    evaluation = evaluate_results(prepared, test, ranking, items, settings)
    popularity = np.bincount(prepared.item_index[prepared.training_mask(False)], minlength=ITEMS + 1)
    hits: dict[str, list[float]] = {"model": [], "popularity": []}
    impossible, repeats = 0, []
    for event in ranking.event.tolist():
        start = event // 12 * 12
        seen, target = prepared.item_index[start:event].tolist(), int(prepared.item_index[event])
        shown = [i for i in range(1, ITEMS + 1) if allows(filters, i) and not (exclude_seen and i in seen)]
        impossible += target not in shown
        repeats.append(target in seen)
        for name, score in (("model", items @ items[event % ITEMS]), ("popularity", popularity[1:])):
            better = sum(score[i - 1] > score[target - 1] for i in shown)
            tied = sum(score[i - 1] == score[target - 1] for i in shown)
            hits[name].append(min(1, max(0, 20 - better) / tied) if target in shown else 0.0)
    summary = evaluation.summary
    for name, values in hits.items():
        assert summary["rankers"][name]["recall_at_20"][0] == pytest.approx(np.mean(values), abs=1e-6)
        for group, rows in (("repeat", np.array(repeats)), ("new", ~np.array(repeats))):
            (row,) = [r for r in summary["standing"] if (r["by"], r["group"]) == ("target", group)]
            assert row["queries"] == rows.sum() > 0
            assert row["rankers"][name]["recall_at_20"][0] == pytest.approx(np.mean(np.array(values)[rows]), abs=1e-6)
    metrics = evaluation.metrics
    expected = np.mean(np.array(hits["popularity"])[np.array(repeats)])
    assert metrics["baseline/popularity/recall_at_20_repeat"] == pytest.approx(expected, abs=1e-6)
    if filters is None and not exclude_seen:
        assert summary["ranked"] is None and impossible == 0
    else:
        allowed = sum(allows(filters, i) for i in range(1, ITEMS + 1))
        assert (summary["ranked"]["items"], summary["ranked"]["impossible"]) == (allowed, impossible)
        assert impossible > 0 and evaluation.saved.rules == summary["ranked"]["rules"]


def test_filters_that_mean_nothing_here_are_refused(prepared: Prepared) -> None:
    with pytest.raises(UserError, match="filter of brand: 0 of 1 known"):
        ranked_items(prepared, filters={"brand": "z"})
    with pytest.raises(UserError, match="allows none of the 40 items"):
        ranked_items(prepared, filters={"brand": "a", "not": {"brand": "a"}})
    with pytest.raises(UserError, match=r"'colour'.*price, brand"):
        ranked_items(prepared, filters={"colour": "red"})
