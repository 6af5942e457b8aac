"""The report of planted results: everything in one page, nothing that could run or load, and plain conclusions."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.evaluation.evaluate_run import Evaluation
from twotower.evaluation.results_file import SavedResults
from twotower.evaluation.slices import Grouping, QueryFacts, groupings_of
from twotower.evaluation.summary import summarize
from twotower.metrics.ranking_results import RankingResults, per_query_metrics
from twotower.report.projection import neighbourhoods, principal_components
from twotower.report.run_page import run_page

QUERIES, ITEMS = 240, 60


class Page(HTMLParser):
    """Text and tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if data.strip():  # not the template's line breaks
            self.text += data.strip() + "|"


def planted(make_prepared: Any, lead: float = 0.3, items: int = ITEMS, **changes: Any) -> dict[str, Any]:
    """Arguments of run_page."""
    random = np.random.default_rng(0)
    prepared = make_prepared([random.integers(1, items + 1, 4).tolist() for _ in range(QUERIES // 2)], num_items=items)
    event = np.sort(np.concatenate([np.arange(2, 2 * QUERIES, 4), np.arange(3, 2 * QUERIES, 4)]))
    session = event // 4
    facts = QueryFacts(session, event % 4, np.asarray(prepared.item_index[event]), event, event % 2 == 0)

    def ranking(chance: float) -> RankingResults:
        better = np.where(random.random(QUERIES) < chance, random.integers(0, 20, QUERIES), 50).astype(np.int32)
        size = min(20, items)
        top = np.stack([random.permutation(items)[:size] + 1 for _ in range(QUERIES)]).astype(np.int32)
        return RankingResults(event, better, np.ones(QUERIES, np.int32), top)

    model, other = ranking(0.6), ranking(0.6 - lead)
    counts = np.append(0, random.integers(0, 90, items))
    colour = Grouping("colour", ["<red>", "blue"], np.append(-1, np.arange(items) % 2))
    groups = groupings_of(prepared, counts, 0, [colour], {}, facts)
    lists = {
        "popularity_at_20": counts[model.top].mean(1),
        "history_popularity": per_query_metrics(model, [20])["mrr_at_20"],
    }
    results, weights = {"model": model, "item_knn": other}, {"revenue": np.arange(QUERIES)}
    summary = summarize(results, session, groups, [10, 20], lists, 200, 0, weights)
    summary["catalogue"] = {"coverage": 0.5, "gini": 0.25}
    history = np.zeros((QUERIES, 3), dtype=np.int64)
    history[:, 0] = prepared.item_index[event - 1]
    saved = SavedResults("abc", [10, 20], model, session, groups)
    manifest = {
        **prepared.manifest,
        "rows": {"read": 12345, "kept": 12300, "dropped": {"no item": 45, "no time": 0}},
        "sessions": {"count": 678, "source": "the session column"},
        "split": {"kind": "temporal", "events": {"train": 9, "test": 1}, "test_events_outside_catalogue": 0.125},
        **{"event_types": ["view"], "inputs": {"hour": 25}, "item_features": {}},
    }
    ids = [f"item & {k}" for k in range(1, items + 1)]
    pq.write_table(pa.table({"item_id": ids, "train_count": counts[1:]}), prepared.path / "catalogue.parquet")
    validation = {epoch: {"val/recall_at_20": 0.1 * epoch, "val/ndcg_at_20": 0.05 * epoch} for epoch in range(3)}
    arguments = {
        "title": "A <shop>",
        "metrics": {"ceiling/recall_at_20": 0.9},
        "evaluation": Evaluation(summary, {}, saved, facts, history, counts, [colour]),
        "items": random.normal(size=(items, 8)).astype(np.float32),
        "validation": validation,
        "prepared": replace(prepared, manifest=manifest),
        "about": {"commit": "0123abc", "model": "GRUTower"},
        "files": ["card.html", "config.yaml"],
        "settings": "a: <b>1</b>",
    }
    return arguments | changes


@pytest.mark.slow
def test_the_page_has_everything_and_nothing_that_runs_or_loads(make_prepared) -> None:
    arguments = planted(make_prepared)
    page = Page(run_page(**arguments))
    titles = ["Model and baselines", "By popularity", "By history length", "By colour", "Learning", "Lists of 20"]
    titles += ["Popularity of bought", "principal components", "t-SNE", "Examples", "Configuration"]
    assert [title for title in titles if title not in page.text] == []
    assert "A <shop>|" in page.text and "<red>|" in page.text and "a: <b>1</b>" in page.text
    evaluation = arguments["evaluation"]
    row = evaluation.summary["rankers"]["model"]["recall_at_20"]
    assert f"{row[0]:.4f} ±{(row[2] - row[1]) / 2:.4f}" in page.text and "ceiling (true distribution)" in page.text
    target, newest = evaluation.facts.target[0], evaluation.history[0, 0]
    assert f"item & {newest}|" in page.text and f"item & {target}|" in page.text
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    links = {value or "" for name, value in page.attributes if name in ("src", "href")}
    assert {link for link in links if not link.startswith("#")} == {"card.html", "config.yaml"}
    for text in ("12,345 read, 12,300 kept", "12.50% of the test's events", "revenue recall@20"):
        assert text in page.text
    metrics = {"ceiling/recall_at_20": 0.9, "test/buy/recall_at_20": 0.25, "test/buy/recall_at_20_asked": 0.8125}
    assert "Asked for" not in page.text and "0.8125" in Page(run_page(**arguments | {"metrics": metrics})).text
    assert "0123abc" in page.text and "card.html" not in run_page(**arguments | {"files": []})


@pytest.mark.slow
def test_conclusions_are_on_the_page(make_prepared) -> None:
    better = planted(make_prepared)
    assert "Recall@20 of all queries: better than item_knn; of " in run_page(**better)
    evaluation = better["evaluation"]
    summary = {**evaluation.summary, "health": ["popularity only: 99% of all places"]}
    text = run_page(**better | {"evaluation": evaluation._replace(summary=summary)})
    assert "Not well: popularity only: 99% of all places" in text
    for lead, part in ((-0.3, "all queries: worse than item_knn"), (0.03, "all queries: no different from item_knn")):
        assert part in run_page(**planted(make_prepared, lead))


@pytest.mark.slow
def test_the_best_of_each_column_is_marked_and_first(make_prepared) -> None:
    for lead, best in ((0.3, "model"), (-0.3, "item_knn")):
        text = run_page(**planted(make_prepared, lead, items=30))
        table = text[text.index("Model and baselines") :]
        first = table[table.index("<td") : table.index("</tr>", table.index("<td"))]
        assert f">{best}</td>" in first and first.count("<b>") == 5, "recall@10, three at 20, and by price"


def test_small_catalogues_and_no_epochs_leave_their_plots_out(make_prepared) -> None:
    small = planted(make_prepared, items=2, validation={})
    evaluation = small["evaluation"]._replace(features=[])
    text = run_page(**small | {"evaluation": evaluation})
    assert "Item vectors" not in text and "Learning" not in text
    assert "t-SNE" not in run_page(**planted(make_prepared, items=30))


def test_principal_components_are_those_of_the_covariance() -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 5)) * [3, 2, 1, 0.5, 0.1] + 7
    place, share = principal_components(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    expected = (vectors - vectors.mean(0)) @ directions[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(place), np.abs(expected), atol=1e-8)
    place, share = principal_components(np.ones((4, 3)))
    assert place.tolist() == [[0, 0]] * 4 and share == 1


def test_neighbourhoods_keep_clusters_together() -> None:
    random = np.random.default_rng(2)
    centre = np.repeat(np.eye(3) * 9, 30, axis=0)
    place = neighbourhoods(centre + random.normal(size=(90, 3)))
    assert place is not None
    away = np.linalg.norm(place[:, None] - place[None], axis=2) + np.eye(90) * 1e9
    nearest = away.argmin(1)
    assert (nearest // 30 == np.arange(90) // 30).mean() > 0.95
    assert neighbourhoods(centre[:49]) is None
