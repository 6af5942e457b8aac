"""The summary of a model and baselines, on planted results."""

import numpy as np
import pytest

from twotower.evaluation.slices import Grouping
from twotower.evaluation.summary import summarize
from twotower.metrics.ranking_results import RankingResults, concatenate_results


def planted(chance: float, seed: int, queries: int = 600) -> RankingResults:
    """Finds the target on the first place with this chance, else nowhere."""
    found = np.random.default_rng(seed).random(queries) < chance
    return RankingResults(
        np.arange(queries), np.where(found, 0, 500).astype(np.int32), np.ones(queries, np.int32), np.empty((queries, 0))
    )


def summarized(**chances: float):
    answers = {name: planted(chance, seed) for seed, (name, chance) in enumerate(chances.items())}
    session = np.repeat(np.arange(200), 3)
    groups = [
        Grouping("half", ["first", "second"], (session >= 100).astype(int)),
        Grouping("rare", ["all but some", "nobody", "few"], np.where(session < 20, 2, 0)),
    ]
    lists = {"novelty": np.arange(600.0)}
    return answers, summarize(answers, session, groups, (1, 20), lists, replicates=300, seed=0, weights={})


def test_means_differences_and_the_best_baseline() -> None:
    answers, summary = summarized(model=0.6, poor=0.3, good=0.5)
    share = {name: float((own.better == 0).mean()) for name, own in answers.items()}
    for name, expected in share.items():
        mean, low, high = summary["rankers"][name]["recall_at_20"]
        assert mean == pytest.approx(expected, abs=1e-6) and low < mean < high
    mean, low, high = summary["model_minus"]["poor"]["mrr_at_1"]
    assert mean == pytest.approx(share["model"] - share["poor"], abs=1e-6) and 0 < low < mean < high
    assert summary["best_baseline"] == "good"
    assert (summary["queries"], summary["sessions"]) == (600, 200)
    assert summary["lists"]["novelty"][0] == pytest.approx(299.5)


def test_queries_may_be_worth_more_than_others() -> None:
    answers, session = planted(0.5, 0), np.repeat(np.arange(200), 3)
    weight = np.where(np.arange(600) % 4 == 0, 5.0, 0.5)
    summary = summarize({"model": answers}, session, [], (1, 20), {"x": np.ones(600)}, 200, 0, {"revenue": weight})
    expected = ((answers.better == 0) * weight).sum() / weight.sum()
    (row,) = summary["standing"]
    assert (row["by"], row["group"], row["queries"]) == ("weighted", "revenue", 600)
    mean, low, high = row["rankers"]["model"]["recall_at_20"]
    assert mean == pytest.approx(expected) and low < mean < high
    assert summary["queries"] == 600
    plain = summary["rankers"]["model"]["recall_at_20"]
    assert plain[0] == pytest.approx((answers.better == 0).mean())
    assert high - low > plain[2] - plain[1], "few queries decide"


def test_slices_have_the_model_and_its_lead() -> None:
    answers, summary = summarized(model=0.6, good=0.5)
    rows = {(row["by"], row["group"]): row for row in summary["slices"]}
    assert set(rows) == {("half", "first"), ("half", "second"), ("rare", "all but some"), ("rare", "few")}
    first = rows["half", "first"]
    assert (first["queries"], first["sessions"]) == (300, 100)
    own, other = ((answers[name].better[:300] == 0).mean() for name in ("model", "good"))
    assert first["model"]["recall_at_20"][0] == pytest.approx(own, abs=1e-6)
    assert first["difference"]["recall_at_20"][0] == pytest.approx(own - other, abs=1e-6)
    assert rows["rare", "few"]["model"]["recall_at_20"][1:] == [None, None], "20 sessions are too few"


def test_the_gap_between_the_best_and_the_worst_served() -> None:
    random = np.random.default_rng(3)
    session = np.repeat(np.arange(300), 3)
    kind = random.integers(0, 3, 900)  # queries of one session are of several kinds
    hit = random.random(900) < np.array([0.2, 0.6, 0.4])[kind]
    better = np.where(hit, 0, 50).astype(np.int32)
    answers = RankingResults(np.arange(900), better, np.ones_like(better), np.ones((900, 0), np.int32))
    groups = [Grouping("kind", ["a", "b", "c"], kind), Grouping("tiny", ["x", "y"], np.where(session < 9, 0, 1))]
    (row,) = summarize({"model": answers}, session, groups, (20,), {"x": np.ones(900)}, 400, 0, {})["disparity"]
    assert (row["by"], row["best"], row["worst"]) == ("kind", "b", "a")
    gap, low, high = row["difference"]
    assert gap == pytest.approx(hit[kind == 1].mean() - hit[kind == 0].mean(), abs=1e-6)
    share = [hit[kind == k].mean() for k in (0, 1)]
    error = np.sqrt(sum(p * (1 - p) / (kind == k).sum() for k, p in enumerate(share)))
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15) and low < gap < high


def test_without_baselines_there_is_nothing_to_subtract() -> None:
    _, summary = summarized(model=0.6)
    assert summary["best_baseline"] is None and summary["model_minus"] == {}
    assert all(row["difference"] == {} for row in summary["slices"])


def test_answers_come_in_the_order_of_their_events() -> None:
    one = RankingResults(np.array([5, 1]), np.array([50, 10]), np.array([1, 2]), np.array([[5], [1]]))
    two = RankingResults(np.array([3]), np.array([30]), np.array([3]), np.array([[3]]))
    whole = concatenate_results([one, two])
    assert whole.event.tolist() == [1, 3, 5] and whole.better.tolist() == [10, 30, 50]
    assert whole.tied.tolist() == [2, 3, 1] and whole.top.tolist() == [[1], [3], [5]]
