"""Two models on the same queries: which is better, for whom, and whether that may be chance."""

from pathlib import Path

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.evaluation.comparison import compare_results, compare_runs
from twotower.evaluation.results_file import RESULTS_FILE, SavedResults, write_results
from twotower.evaluation.slices import Grouping
from twotower.metrics.ranking_results import RankingResults

QUERIES = 900


def results(
    chance: float, seed: int, first: int = 0, fingerprint: str = "abc", chance_of_new: float | None = None
) -> SavedResults:
    """Results that are right with probability `chance`; for new users, half of all sessions, with `chance_of_new`."""
    session = np.arange(first, first + QUERIES) // 3
    new = session % 2
    right = np.random.default_rng(seed).random(QUERIES) < np.where(new, chance_of_new or chance, chance)
    better = np.where(right, 0, 99).astype(np.int32)
    event = np.arange(first, first + QUERIES)
    ranking = RankingResults(event, better, np.ones(QUERIES, dtype=np.int32), np.empty((QUERIES, 0), dtype=np.int32))
    return SavedResults(fingerprint, [1, 20], ranking, session, [Grouping("user", ["known", "new"], new)])


def test_differences_are_those_of_the_means() -> None:
    a, b = results(0.6, 0), results(0.4, 1)
    compared = compare_results(a, b, "recall_at_20", replicates=200)
    assert [row.by for row in compared.metrics] == [
        f"{kind}_at_{k}" for kind in ("recall", "ndcg", "mrr") for k in (1, 20)
    ]
    share = [(r.ranking.better == 0).mean() for r in (a, b)]
    for row in compared.metrics:
        assert row.first[0] == pytest.approx(share[0]) and row.second[0] == pytest.approx(share[1])
        mean, low, high = row.difference
        assert mean == pytest.approx(share[0] - share[1]) and 0 < low < mean < high
    assert [(row.group, row.queries) for row in compared.slices] == [("known", 450), ("new", 450)]
    known = a.groupings[0].code == 0
    assert compared.slices[0].first[0] == pytest.approx((a.ranking.better[known] == 0).mean())
    texts = ["recall@20 of all queries: better than B", "ndcg@20 of all queries: better than B"]
    assert compared.verdicts == [*texts, "mrr@20 of all queries: better than B"]
    verdicts = compare_results(b, a, "mrr_at_1", replicates=200).verdicts
    assert verdicts[0] == "mrr@1 of all queries: worse than B" and len(verdicts) == 4


def test_a_model_does_not_differ_from_itself() -> None:
    compared = compare_results(results(0.5, 0), results(0.5, 0), "mrr_at_20", replicates=50)
    assert len(compared.metrics) == 6 and len(compared.slices) == 2
    assert all(row.difference == [0, 0, 0] for row in compared.metrics + compared.slices)
    assert {text.rpartition(": ")[2] for text in compared.verdicts} == {"equal to B"}


def test_what_matters_more_is_in_the_verdict() -> None:
    """B is better where the target is new and where queries weigh more, though A is better on the whole."""
    a, b = results(0.9, 0, chance_of_new=0.1), results(0.2, 1, chance_of_new=0.5)
    new = a.groupings[0].code
    changes = {"groupings": [Grouping("target", ["repeat", "new"], new)], "weights": {"weighted": 1.0 + 99 * new}}
    compared = compare_results(a._replace(**changes), b._replace(**changes), "recall_at_20", replicates=200)
    assert compared.verdicts[0] == (
        "recall@20 of all queries: better than B; of all queries by target weight: worse than B; "
        "of repeat targets: better than B; of new targets: worse than B"
    )
    (weighted,) = [row for row in compared.slices if row.by == "weighted"]
    hit, weight = a.ranking.better == 0, 1.0 + 99 * new
    assert weighted.first[0] == pytest.approx((hit * weight).sum() / weight.sum())


def test_only_common_queries_count() -> None:
    a, b = results(0.6, 0), results(0.4, 1, first=300)
    row = compare_results(a, b, "recall_at_1", replicates=20).metrics[0]
    assert row.queries == QUERIES - 300
    assert row.first[0] == pytest.approx((a.ranking.better[300:] == 0).mean())
    assert row.second[0] == pytest.approx((b.ranking.better[:-300] == 0).mean())


def test_what_can_not_be_compared_is_refused() -> None:
    a = results(0.5, 0)
    with pytest.raises(UserError, match="fingerprints abc and other"):
        compare_results(a, results(0.5, 0, fingerprint="other"), "recall_at_20")
    with pytest.raises(UserError, match=r"evaluation\.min_history"):
        compare_results(a, results(0.5, 0, first=5000), "recall_at_20")
    with pytest.raises(UserError, match=r"other items.*'exclude_seen' and 'all items'"):
        compare_results(a._replace(rules="exclude_seen"), a, "recall_at_20")
    with pytest.raises(UserError, match=r"recall_at_7.*recall_at_1, recall_at_20"):
        compare_results(a, a, "recall_at_7")


def test_runs_are_compared_in_their_folders(tmp_path: Path) -> None:
    for name, chance in (("a", 0.6), ("b", 0.2)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / RESULTS_FILE, results(chance, 0))
    assert compare_runs(tmp_path / "a", tmp_path / "b").verdicts[0].endswith("better than B")
    (tmp_path / "a" / "user_tower.onnx").touch()
    with pytest.raises(UserError, match=f"twotower evaluate {tmp_path / 'a'}"):
        compare_runs(tmp_path / "a", tmp_path / "b")
