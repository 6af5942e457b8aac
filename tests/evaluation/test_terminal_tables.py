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
    rankers = {"model": 0.5, "popularity": 0.125, "item_knn": 0.5}
    return {
        "queries": 4321,
        "standing": [],
        "rankers": {name: {"recall_at_20": [value, value, value]} for name, value in rankers.items()},
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
    assert rows[:2] == [["model", "0.2500*", "0.5000*"], ["item_knn", "", "0.5000*"]], "the best first"
    assert ["popularity", "", "0.1250"] in rows
    assert ["ceiling (true distribution)", "", "0.7500"] in rows
    assert ["model", "", "3.0", "12,346"] in rows
    assert ["popularity", "+0.3750 ±0.0500", "0.2", "150"] in rows
    assert ["all queries", "4,321", "0.5000 ±0.0000", "item_knn 0.5000", "+0.0000 ±0.1000", "1 / 1 / 0"] in rows
    sentence = "recall@20 of all queries: better than popularity, no different from item_knn"
    assert sentence in text.replace("\n", " ") and "deploy" not in text


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        ([0.1, -0.1, 0.2], "better than popularity, no different from item_knn"),
        ([0.1, 0.05, 0.2], "better than all 2 baselines"),
        ([-0.1, -0.2, -0.05], "better than popularity, worse than item_knn"),
        ([0.1, None, None], "better than popularity, too few sessions to tell it from item_knn"),
    ],
)
def test_the_headline_names_whom_the_model_beats(
    difference: list[float | None], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_evaluation(METRICS, assessment(item_knn=difference), "a shop")
    assert f"recall@20 of all queries: {sentence}" in capsys.readouterr().out.replace("\n", " ")


def test_kinds_of_queries_have_a_short_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(METRICS, assessment(), "a shop")
    rows = cells(capsys.readouterr().out)
    assert ["popularity", "head", "1,234", "0.5000 ±0.1000", "too few sessions", ""] in rows
    assert ["", "cold", "1,234", "0.5000 ±0.1000", "too few sessions", ""] in rows
    assert not any("red" in row for row in rows)
