"""Runs trained until one time after another, by hand."""

from pathlib import Path
from typing import Any

import pytest

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.evaluation.backtest import read_runs, recall_by_age, text_rows
from twotower.report.backtest_page import backtest_page

DAY = 86_400_000
BEGIN = 1_740_000_000_000  # 2025-02-19Z


def write_run(path: Path, day: int, recall: float, by_day: dict[str, list[float | None]]) -> Path:
    """A run that was tested from `day` on: 0.1 ahead of item_knn, and far ahead of popularity."""
    path.mkdir(parents=True)

    def mean(value: float) -> dict[str, list[float]]:
        return {"recall_at_20": [value, value - 0.05, value + 0.05]}

    found: dict[str, Any] = {
        "queries": 1000,
        "best_baseline": "item_knn",
        "rankers": {"model": mean(recall), "popularity": mean(0.01), "item_knn": mean(recall - 0.1)},
        "model_minus": {"popularity": mean(recall - 0.01), "item_knn": mean(0.1)},
        "slices": [
            {"by": "days since training", "group": group, "model": {"recall_at_20": value}}
            for group, value in by_day.items()
        ],
    }
    write_json(path / "assessment.json", found)
    write_json(path / "data.json", {"split": {"kind": "temporal", "test_start": BEGIN + day * DAY}})
    return path


def test_runs_are_in_the_order_of_their_tests(tmp_path: Path) -> None:
    first = {"day 1": [0.5, 0.4, 0.6], "day 2": [0.4, 0.3, 0.5], "day 3": [0.9, None, None], "later": [0.1, 0.0, 0.2]}
    write_run(tmp_path / "0", 7, 0.5, first)
    write_run(tmp_path / "1", 0, 0.3, {"day 1": [0.4, 0.3, 0.5], "day 2": [0.2, 0.1, 0.3]})
    runs = read_runs([tmp_path])
    assert [run.path.name for run in runs] == ["1", "0"]
    assert recall_by_age(runs) == {1: 1.0, 2: pytest.approx((0.8 + 0.5) / 2)}, "too few sessions on day 3"
    _, row, _ = text_rows(runs)
    assert row == ("2025-02-19", "1,000", "0.3000 ±0.0500", "item_knn", "+0.1000 ±0.0500")
    summary = read_json(tmp_path / "1" / "assessment.json", "a run")
    rows = [("new", [0.2, 0.1, 0.3], [-0.1, -0.2, 0.0]), ("repeat", [0.9, 0.85, 0.95], [0.3, 0.2, 0.4])]
    for group, model, lead in rows:
        means = {"model": {"recall_at_20": model}, "difference": {"recall_at_20": lead}}
        summary["slices"].append({"by": "target", "group": group, **means})
    write_json(tmp_path / "1" / "assessment.json", summary)
    head, row, other = text_rows(read_runs([tmp_path]))
    assert head[5:] == ("of repeat targets", "model - it", "of new targets", "model - it")
    assert row[5:] == ("0.9000 ±0.0500", "+0.3000 ±0.1000", "0.2000 ±0.1000", "-0.1000 ±0.1000")
    assert other[5:] == ("too few sessions",) * 4, "a run of an earlier version"
    page = backtest_page(runs)
    assert page.count("<svg") == 2 and "day 1: 100%, day 2: 65%" in page
    assert "popularity" in page and "02-26" in page


def test_what_is_no_backtest_is_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", 0, 0.5, {"day 1": [0.5, 0.4, 0.6]})
    with pytest.raises(UserError, match=r"^1 tested run"):
        read_runs([one])
    untimed = write_run(tmp_path / "untimed", 0, 0.5, {})
    with pytest.raises(UserError, match="split=temporal"):
        read_runs([one, untimed])
