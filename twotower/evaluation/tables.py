"""The table at the end of a run."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from twotower.evaluation.assessment import MODEL, PRIMARY_METRIC
from twotower.evaluation.slices import LENGTH, POPULARITY
from twotower.evaluation.verdicts import judgements, with_interval

COLUMNS = ("recall_at_10", "recall_at_20", "ndcg_at_20", "mrr_at_20")
STYLES = {"error": "bold red", "warning": "yellow", "good": "green"}
SHOWN = (POPULARITY, LENGTH)  # slices of the short table; a run's assessment.json has all


def results_table(metrics: Mapping[str, float], title: str) -> Table:
    """Model, baselines and, where it is known, the ceiling: one row each, on the same queries.

    Args:
        metrics: flat results, `test/recall_at_20`, `baseline/item_knn/recall_at_20`, `ceiling/recall_at_20`.
        title: what was evaluated.
    """
    rows = _rankers(metrics)
    if any(key.startswith("ceiling/") for key in metrics):
        rows["ceiling (true distribution)"] = "ceiling"
    columns = [c for c in COLUMNS if f"test/{c}" in metrics]
    table = Table("", *(c.replace("_at_", "@") for c in columns), title=title, title_justify="left")
    for label, prefix in rows.items():
        values = [metrics.get(f"{prefix}/{column}") for column in columns]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        table.add_row(label, *cells, style="bold" if label == MODEL else None)
    return table


def lead_table(metrics: Mapping[str, float], assessment: Mapping[str, Any]) -> Table | None:
    """By how much the model is ahead of each baseline, how sure that is, and what each costs."""
    if not assessment["model_minus"]:
        return None
    table = Table("", "recall@20: model - it ± 95 %", "fit, s", "queries/s")
    own = (metrics.get("train/seconds"), metrics["test/queries_per_second"])
    table.add_row(MODEL, "", *map(_short, own), style="bold")
    for name, difference in assessment["model_minus"].items():
        cost = (metrics[f"baseline/{name}/{key}"] for key in ("fit_seconds", "queries_per_second"))
        table.add_row(name, with_interval(difference[PRIMARY_METRIC], "+.4f"), *map(_short, cost))
    return table


def slices_table(assessment: Mapping[str, Any]) -> Table | None:
    """recall@20 by kind of query, and by how much the best baseline is beaten there."""
    best = assessment["best_baseline"]
    rows = [row for row in assessment["slices"] if row["by"] in SHOWN]
    if not rows:
        return None
    table = Table("recall@20 by", "", "queries", "model ± 95 %", *([f"model - {best}"] if best else []))
    before = ""
    for row in rows:
        by, before = ("" if row["by"] == before else row["by"]), row["by"]
        cells = [with_interval(row["model"][PRIMARY_METRIC], ".4f")]
        cells += [with_interval(row["difference"][PRIMARY_METRIC], "+.4f")] if best else []
        table.add_row(by, row["group"], f"{row['queries']:,}", *cells)
    return table


def _short(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def types_table(metrics: Mapping[str, float]) -> Table | None:
    """recall@20 by the target's event type, one column each; None where there is one type alone."""
    ending = "/recall_at_20"
    types = [
        key.split("/")[1] for key in metrics if key.startswith("test/") and key.endswith(ending) and key.count("/") == 2
    ]
    if not types:
        return None
    table = Table("recall@20 of", *types)
    for label, prefix in _rankers(metrics).items():
        values = [metrics.get(f"{prefix}/{name}{ending}") for name in types]
        table.add_row(label, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def print_report(metrics: Mapping[str, float], assessment: Mapping[str, Any], title: str) -> None:
    """Print the tables, then in colour what must not be overlooked."""
    console = Console()
    tables = [results_table(metrics, title), lead_table(metrics, assessment)]
    for table in [*tables, types_table(metrics), slices_table(assessment)]:
        if table:
            console.print(table)
    for level, text in judgements(assessment):
        console.print(text, style=STYLES[level])


def _rankers(metrics: Mapping[str, float]) -> dict[str, str]:
    """The model and the baselines: name -> where its metrics are."""
    return {"model": "test"} | {name: f"baseline/{name}" for name in _names(metrics, "baseline")}


def _names(metrics: Mapping[str, float], kind: str) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith(f"{kind}/")))
