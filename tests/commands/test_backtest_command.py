"""`twotower backtest`: prints the tables and writes the page."""

from pathlib import Path

import pytest

from twotower.commands.main import main
from twotower.core.files import write_json


def write_run(path: Path, begin: int) -> str:
    mean = {"recall_at_20": [0.4, 0.3, 0.5]}
    rows = [{"by": "days since training", "group": f"day {day}", "model": mean} for day in (1, 2)]
    summary = {"queries": 1000, "best_baseline": None, "rankers": {"model": mean}, "model_minus": {}, "slices": rows}
    path.mkdir()
    write_json(path / "assessment.json", summary)
    write_json(path / "data.json", {"split": {"test_start": begin}})
    return str(path)


def test_it_prints_tables_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / str(k), 1_740_000_000_000 + k * 86_400_000) for k in range(2)]
    page = tmp_path / "page.html"
    assert main(["backtest", *runs, "--out", str(page)]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["2025-02-19", "1,000", "0.4000 ±0.1000", "", ""] in rows and ["2", "100.0%"] in rows
    assert text.strip().splitlines()[-1] == f"page: {page}" and "<svg" in page.read_text()
    assert main(["backtest", str(tmp_path / "nowhere")]) == 2
    assert "0 tested run(s)" in capsys.readouterr().err
