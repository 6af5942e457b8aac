"""The tables of a run's test in the terminal, and its conclusions."""

from typing import Any

import pytest

from twotower.evaluation.terminal_tables import print_evaluation

METRICS = {
    "test/recall_at_10": 0.25,
    "test/recall_at_20": 0.5,
    "test/queries_per_second": 12345.6,
    "baseline/popularity/recall_at_20": 0.125,
    "baseline/popularity/fit_seconds": 0.24,
    "baseline/popularity/queries_per_second": 150.2,
    "baseline/item_knn/recall_at_20": 0.5,
    "baseline/item_knn/fit_seconds": 1.5,
    "baseline/item_knn/queries_per_second": 2.0,
    "baseline/item_knn/view/recall_at_20": 0.9,
    "ceiling/recall_at_20": 0.75,
    "train/seconds": 3.0,
}


def assessment(**differences: list[float | None]) -> dict[str, Any]:
    minus = {"popularity": [0.375, 0.3, 0.4], "item_knn": [0.0, -0.1, 0.1]} | differences
    model = {"recall_at_20": [0.5, 0.4, 0.6]}
    rows = [("popularity", "head"), ("popularity", "cold"), ("colour", "red")]
    return {
        "best_baseline": "item_knn",
        "model_minus": {name: {"recall_at_20": value} for name, value in minus.items()},
        "slices": [
            {"by": by, "group": group, "queries": 1234, "model": model, "difference": {"recall_at_20": [None] * 3}}
            for by, group in rows
        ],
    }


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:]] for line in text.splitlines() if "│" in line]


def test_the_tables_have_a_row_for_each_ranker_and_say_who_is_not_beaten(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(METRICS, assessment(), "a shop")
    text = capsys.readouterr().out
    rows = [row[:-1] for row in cells(text)]
    assert ["model", "0.2500", "0.5000"] in rows
    assert ["popularity", "", "0.1250"] in rows
    assert ["ceiling (true distribution)", "", "0.7500"] in rows
    assert ["model", "", "3.0", "12,346"] in rows
    assert ["popularity", "+0.3750 ±0.0500", "0.2", "150"] in rows
    assert "the model does not beat item_knn" in text and "chance" not in text


def test_a_lead_that_chance_may_have_made_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(METRICS, assessment(item_knn=[0.1, -0.1, 0.2]), "a shop")
    text = capsys.readouterr().out
    assert "does not beat" not in text and "ahead of item_knn in recall@20, but that may be chance" in text.replace(
        "\n", " "
    )


def test_a_model_that_beats_all_is_praised(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(METRICS, assessment(item_knn=[0.1, 0.05, 0.2]), "a shop")
    text = capsys.readouterr().out
    assert "does not beat" not in text and "the model beats all 2 baselines" in text


def test_kinds_of_queries_have_a_short_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(METRICS, assessment(), "a shop")
    rows = cells(capsys.readouterr().out)
    assert ["popularity", "head", "1,234", "0.5000 ±0.1000", "too few sessions", ""] in rows
    assert ["", "cold", "1,234", "0.5000 ±0.1000", "too few sessions", ""] in rows
    assert not any("red" in row for row in rows)
