"""Tables of results in the terminal."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from twotower.evaluation.asked import asked_rows, at_time_rows
from twotower.evaluation.backtest import BacktestRun, recall_by_age, text_rows
from twotower.evaluation.comparison import Comparison, Row
from twotower.evaluation.slices import LENGTH, POPULARITY
from twotower.evaluation.summary import MODEL, PRIMARY_METRIC
from twotower.evaluation.verdicts import conclusions, horizon_rows, slice_cells, standing_rows, verdict, with_interval

COLUMNS = ("recall_at_10", "recall_at_20", "ndcg_at_20", "mrr_at_20")
WIDTH = 140  # characters, where it is not printed to a terminal
STYLES = {"error": "bold red", "warning": "yellow", "good": "green", "better": "green", "worse": "red"}
SHORT_SLICES = (POPULARITY, LENGTH)  # a run's assessment.json has all slices


def print_evaluation(metrics: Mapping[str, float], summary: Mapping[str, Any], title: str) -> None:
    """Print the tables of a run's test, then the conclusions in colour.

    Args:
        metrics: flat, `test/recall_at_20`, `baseline/item_knn/recall_at_20`, `ceiling/recall_at_20`.
        summary: see summary.summarize.
        title: what was evaluated.
    """
    console = _console()
    tables = [results_table(metrics, title), lead_table(metrics, summary), table_of(standing_rows(summary))]
    tables += [table_of(horizon_rows(summary)), table_of(asked_rows(metrics)), table_of(at_time_rows(metrics))]
    tables.append(slices_table(summary))
    for table in filter(None, tables):
        console.print(table)
    for level, text in conclusions(summary):
        console.print(text, style=STYLES[level])


def results_table(metrics: Mapping[str, float], title: str) -> Table:
    """Return metrics of model and baselines, the best first and marked, and of the ceiling where it is known."""
    prefixes = _rankers(metrics)
    columns = [c for c in COLUMNS if f"test/{c}" in metrics]
    rows = {name: [metrics.get(f"{prefix}/{c}") for c in columns] for name, prefix in prefixes.items()}
    table = Table("", *(c.replace("_at_", "@") for c in columns), title=title, title_justify="left")
    for label, cells in best_first(rows, columns):
        table.add_row(label, *cells, style="bold" if label == MODEL else None)
    if any(key.startswith("ceiling/") for key in metrics):
        table.add_row("ceiling (true distribution)", *(_cell(metrics.get(f"ceiling/{column}")) for column in columns))
    return table


def best_first(rows: Mapping[str, Sequence[float | None]], columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return rankers' rows of text by recall@20, the best value of each column marked with a star.

    Args:
        rows: values by ranker.
        columns: names of the metrics.
    """
    place = columns.index(PRIMARY_METRIC) if PRIMARY_METRIC in columns else 0
    best = [max((v for v in column if v is not None), default=None) for column in zip(*rows.values(), strict=True)]
    return [
        (name, [f"{_cell(v)}{'*' if v is not None and v == most else ''}" for v, most in zip(row, best, strict=True)])
        for name, row in sorted(rows.items(), key=lambda item: -(item[1][place] or 0.0))
    ]


def lead_table(metrics: Mapping[str, float], summary: Mapping[str, Any]) -> Table | None:
    """Return the model's lead over each baseline with its interval, and the time that each takes."""
    if not summary["model_minus"]:
        return None
    table = Table("", "recall@20: model - it ± 95 %", "fit, s", "queries/s")
    costs = (metrics.get("train/seconds"), metrics["test/queries_per_second"])
    table.add_row(MODEL, "", *map(_short, costs), style="bold")
    for name, difference in summary["model_minus"].items():
        cost = (metrics[f"baseline/{name}/{key}"] for key in ("fit_seconds", "queries_per_second"))
        table.add_row(name, with_interval(difference[PRIMARY_METRIC], "+.4f"), *map(_short, cost))
    return table


def table_of(rows: Sequence[Sequence[str]]) -> Table | None:
    """Return rows, the head first, as a table; None where there are none."""
    if not rows:
        return None
    head, *rows = rows
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    return table


def print_rows(rows: Sequence[Sequence[str]], lines: Sequence[str] = ()) -> None:
    """Print rows, the head first, as a table, and lines of text below it."""
    console = _console()
    console.print(table_of(rows))
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def slices_table(summary: Mapping[str, Any]) -> Table | None:
    """Return recall@20 by kind of query, and the lead over the best baseline there."""
    best = summary["best_baseline"]
    slices = [row for row in summary["slices"] if row["by"] in SHORT_SLICES]
    if not slices:
        return None
    table = Table("recall@20 by", "", "queries", "model ± 95 %", *([f"model - {best}"] if best else []))
    for by, row in zip(_without_repeats(row["by"] for row in slices), slices, strict=True):
        table.add_row(by, *slice_cells(row, best))
    return table


def print_comparison(comparison: Comparison, first: str, second: str) -> None:
    """Print two runs' metrics, slices, and which one is better."""
    console = _console()
    queries = comparison.metrics[0].queries
    console.print(f"A: {first}\nB: {second}\n{queries:,} queries, ± half of the 95 % interval")
    console.print(_comparison_table(comparison.metrics, "metric"))
    console.print(_comparison_table(comparison.slices, f"{comparison.metric} by"))
    for text in comparison.verdicts:
        console.print(f"A: {text}", style="bold")


def _comparison_table(rows: Sequence[Row], heading: str) -> Table:
    table = Table(heading, "", "queries", "A", "B", "A - B", "A is")
    for by, row in zip(_without_repeats(row.by for row in rows), rows, strict=True):
        means = (_cell(mean[0]) for mean in (row.first, row.second))
        word = verdict(row.difference)
        difference = "0" if word == "equal" else with_interval(row.difference, "+.4f")
        table.add_row(by, row.group, f"{row.queries:,}", *means, difference, word, style=STYLES.get(word))
    return table


def print_backtest(runs: Sequence[BacktestRun]) -> None:
    """Print each run's test, and how recall falls with the days since training."""
    head, *rows = text_rows(runs)
    table = Table(*head)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    by_age = Table("days since training", "recall@20 / that of the earliest day")
    for day, ratio in recall_by_age(runs).items():
        by_age.add_row(str(day), f"{ratio:.1%}")
    console = _console()
    console.print(table)
    console.print(by_age)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _without_repeats(names: Iterable[str]) -> Iterator[str]:
    """Yield each name, or nothing where it equals the one before."""
    before = None
    for name in names:
        yield "" if name == before else name
        before = name


def _rankers(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the prefix of the metrics of the model and of each baseline, by name."""
    names = dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith("baseline/"))
    return {MODEL: "test"} | {name: f"baseline/{name}" for name in names}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _short(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"
