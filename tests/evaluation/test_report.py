"""The final table and its verdict."""

import pytest

from twotower.evaluation.report import losses_to_baselines, print_report

METRICS = {
    "test/recall_at_10": 0.25,
    "test/recall_at_20": 0.5,
    "baseline/popularity/recall_at_20": 0.125,
    "baseline/item_knn/recall_at_20": 0.5,
    "baseline/item_knn/view/recall_at_20": 0.9,
    "ceiling/recall_at_20": 0.75,
    "train/seconds": 3.0,
}


def test_a_baseline_that_is_as_good_as_the_model_is_named() -> None:
    assert losses_to_baselines(METRICS) == ["item_knn"]


def test_the_table_has_a_row_for_each_ranker_and_says_who_is_not_beaten(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(METRICS, "a shop")
    lines = capsys.readouterr().out.splitlines()
    row = {line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:4]] for line in lines if "│" in line}
    assert row["model"] == ["0.2500", "0.5000"]
    assert row["popularity"] == ["", "0.1250"]
    assert row["ceiling (true distribution)"] == ["", "0.7500"]
    assert next(line for line in lines if "does not beat" in line).startswith("the model does not beat item_knn")


def test_a_model_that_beats_all_gets_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    print_report({**METRICS, "test/recall_at_20": 0.6}, "a shop")
    assert "does not beat" not in capsys.readouterr().out


def test_recall_by_the_targets_type(capsys: pytest.CaptureFixture[str]) -> None:
    typed = {"test/cart/recall_at_20": 0.7, "test/view/recall_at_20": 0.3, "test/cart/recall_at_10": 0.1}
    print_report(METRICS | typed, "a shop")
    lines = capsys.readouterr().out.splitlines()
    row = {
        line.split("│")[1].strip(): [c.strip() for c in (line + "│").split("│")[2:5]] for line in lines if "│" in line
    }
    assert row["model"] == ["0.7000", "0.3000", ""]  # the last of the two tables
    assert row["item_knn"] == ["", "0.9000", ""]
    print_report(METRICS, "a shop")
    assert "recall@20 of" not in capsys.readouterr().out
