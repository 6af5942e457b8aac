"""Two models on the same queries: who is better, for whom, and whether that may be chance."""

from pathlib import Path

import numpy as np
import pytest

from twotower.commands.compare import compare, main
from twotower.core.errors import UserError
from twotower.evaluation.record import Record, write_record
from twotower.evaluation.slices import Grouping
from twotower.metrics.results import RankingResults

QUERIES = 900


def record(
    chance: float, seed: int, first: int = 0, fingerprint: str = "abc", chance_of_new: float | None = None
) -> Record:
    """Results that are right with probability `chance`; for new users, half of all sessions, with `chance_of_new`."""
    session = np.arange(first, first + QUERIES) // 3
    new = session % 2
    right = np.random.default_rng(seed).random(QUERIES) < np.where(new, chance_of_new or chance, chance)
    better = np.where(right, 0, 99).astype(np.int32)
    event = np.arange(first, first + QUERIES)
    answers = RankingResults(event, better, np.ones(QUERIES, dtype=np.int32), np.empty((QUERIES, 0), dtype=np.int32))
    return Record(fingerprint, [1, 20], answers, session, [Grouping("user", ["known", "new"], new)])


def test_differences_are_those_of_the_means() -> None:
    a, b = record(0.6, 0), record(0.4, 1)
    metrics, slices = compare(a, b, "recall_at_20", replicates=200)
    assert [row.by for row in metrics] == [f"{kind}_at_{k}" for kind in ("recall", "ndcg", "mrr") for k in (1, 20)]
    share = [(r.answers.better == 0).mean() for r in (a, b)]
    for row in metrics:
        assert row.first[0] == pytest.approx(share[0]) and row.second[0] == pytest.approx(share[1])
        mean, low, high = row.difference
        assert mean == pytest.approx(share[0] - share[1]) and 0 < low < mean < high
    assert [(row.group, row.queries) for row in slices] == [("known", 450), ("new", 450)]
    known = a.groupings[0].code == 0
    assert slices[0].first[0] == pytest.approx((a.answers.better[known] == 0).mean())


def test_a_model_and_itself_are_not_told_apart() -> None:
    metrics, slices = compare(record(0.5, 0), record(0.5, 0), "mrr_at_20", replicates=50)
    assert len(metrics) == 6 and len(slices) == 2
    assert all(row.difference == [0, 0, 0] for row in metrics + slices)


def test_only_common_queries_count() -> None:
    a, b = record(0.6, 0), record(0.4, 1, first=300)
    metrics, _ = compare(a, b, "recall_at_1", replicates=20)
    assert metrics[0].queries == QUERIES - 300
    assert metrics[0].first[0] == pytest.approx((a.answers.better[300:] == 0).mean())
    assert metrics[0].second[0] == pytest.approx((b.answers.better[:-300] == 0).mean())


def test_what_can_not_be_compared_is_refused() -> None:
    a = record(0.5, 0)
    with pytest.raises(UserError, match="different data"):
        compare(a, record(0.5, 0, fingerprint="other"), "recall_at_20")
    with pytest.raises(UserError, match="no query in common"):
        compare(a, record(0.5, 0, first=5000), "recall_at_20")
    with pytest.raises(UserError, match="there are recall_at_1, recall_at_20"):
        compare(a, a, "recall_at_7")


def test_the_command_line_names_the_better_one_and_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, own in {"a": record(0.6, 0, chance_of_new=0.2), "b": record(0.2, 1, chance_of_new=0.3)}.items():
        (tmp_path / name).mkdir()
        write_record(tmp_path / name / "answers.npz", own)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = capsys.readouterr().out
    assert text.strip().splitlines()[-1] == "recall_at_20: A is better"
    rows = {
        row[1]: row[-2]
        for row in ([c.strip() for c in line.split("│")[1:]] for line in text.splitlines())
        if len(row) > 6
    }
    assert rows["known"] == "better" and rows["new"] == "worse"
    assert main([str(tmp_path / "b"), str(tmp_path / "a"), "--metric", "mrr_at_1"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "mrr_at_1: B is better"


def test_what_is_no_run_gets_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "empty")]) == 2
    assert "answers.npz is missing" in capsys.readouterr().err
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert main(["0123456789abcdef", "0123456789abcdef", "--tracking-uri", uri]) == 2
    assert "neither a folder nor the id of an MLflow run" in capsys.readouterr().err
    unknown = 32 * "0"
    assert main([unknown, unknown, "--tracking-uri", uri]) == 2
    assert "there is no MLflow database" in capsys.readouterr().err
    (tmp_path / "empty" / "user_tower.onnx").touch()
    assert main([str(tmp_path / "empty"), str(tmp_path / "empty")]) == 2
    assert (
        f"is a bundle, which has answered nothing yet: python train.py evaluate={tmp_path}" in capsys.readouterr().err
    )
