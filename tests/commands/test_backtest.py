"""Runs trained until one time after another, by hand."""

from pathlib import Path
from typing import Any

import pytest

from twotower.commands.backtest import ageing, find, main
from twotower.core.errors import UserError
from twotower.core.files import write_json

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


def test_runs_are_told_by_their_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {"day 1": [0.5, 0.4, 0.6], "day 2": [0.4, 0.3, 0.5], "day 3": [0.9, None, None], "later": [0.1, 0.0, 0.2]}
    write_run(tmp_path / "sweep" / "0", 7, 0.5, first)
    write_run(tmp_path / "sweep" / "1", 0, 0.3, {"day 1": [0.4, 0.3, 0.5], "day 2": [0.2, 0.1, 0.3]})
    origins = find([tmp_path / "sweep"])
    assert [origin.path.name for origin in origins] == ["1", "0"]
    assert ageing(origins) == {1: 1.0, 2: pytest.approx((0.8 + 0.5) / 2)}, "too few sessions on day 3"
    page = tmp_path / "page.html"
    assert main([str(tmp_path / "sweep" / "0"), str(tmp_path / "sweep" / "1"), "--out", str(page)]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["2025-02-19", "1,000", "0.3000 ±0.0500", "item_knn", "+0.1000 ±0.0500"] in rows
    assert ["2", "65.0%"] in rows
    content = page.read_text()
    assert content.count("<svg") == 2 and "of the earliest day&#x27;s recall: day 1: 100%, day 2: 65%" in content
    assert "popularity" in content and "02-26" in content


def test_what_tells_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", 0, 0.5, {"day 1": [0.5, 0.4, 0.6]})
    assert main([str(one)]) == 2
    assert "1 tested run(s)" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "0 tested run(s)" in capsys.readouterr().err
    untimed = write_run(tmp_path / "untimed", 0, 0.5, {})
    with pytest.raises(UserError, match="was not tested by time"):
        find([one, untimed])
