"""Backtest: runs trained until one time after another and tested after it, day by day, and how fast models age."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.evaluation.intervals import Mean
from twotower.evaluation.slices import AGE, TARGET
from twotower.evaluation.summary import MODEL, PRIMARY_METRIC
from twotower.evaluation.verdicts import with_interval
from twotower.metrics.ranking_metrics import TARGETS
from twotower.runs.layout import ASSESSMENT_FILE, DATA_FILE

NO_MEAN: Mean = [None, None, None]


class BacktestRun(NamedTuple):
    """A run trained on all events before a time and tested on those after it; means are of PRIMARY_METRIC."""

    path: Path
    begin: datetime  # of the test
    queries: int
    rankers: dict[str, Mean]  # of the model and of each baseline
    lead: Mean  # the model's over the best baseline
    best: str | None
    by_day: dict[int, Mean]  # the model's, by the day since training
    by_target: dict[str, tuple[Mean, Mean]]  # the model's of repeated and of new targets, and its lead over `best`


def read_run(path: Path) -> BacktestRun:
    """Read a run's test; raises UserError where it was not split by time."""
    summary = read_json(path / ASSESSMENT_FILE, "a run that has been tested")
    split = read_json(path / DATA_FILE, "a run directory")["split"]
    rows = [row for row in summary["slices"] if row["by"] == AGE and row["group"].startswith("day ")]
    if "test_start" not in split or not rows:
        raise UserError(f"{path} was not tested by time; train it with split=temporal, on timestamps that are times")
    best = summary["best_baseline"]
    return BacktestRun(
        path,
        datetime.fromtimestamp(split["test_start"] / 1000, UTC),
        summary["queries"],
        {name: means[PRIMARY_METRIC] for name, means in summary["rankers"].items()},
        summary["model_minus"][best][PRIMARY_METRIC] if best else NO_MEAN,
        best,
        {int(row["group"].removeprefix("day ")): row["model"][PRIMARY_METRIC] for row in rows},
        {
            row["group"]: (row["model"][PRIMARY_METRIC], row["difference"].get(PRIMARY_METRIC, NO_MEAN))
            for row in summary["slices"]
            if row["by"] == TARGET
        },
    )


def read_runs(folders: Sequence[Path]) -> list[BacktestRun]:
    """Read all tested runs in these folders, by the time of their test; raises UserError for fewer than two times."""
    files = {file for folder in folders for file in folder.rglob(ASSESSMENT_FILE)}
    runs = sorted((read_run(file.parent) for file in files), key=lambda run: run.begin)
    if len({run.begin for run in runs}) < 2:
        raise UserError(
            f"{len(runs)} tested run(s) in {', '.join(map(str, folders))}; expected two and more whose tests begin at "
            "different times: twotower train -m split.test_days=3 preparation.until=2026-01-10,2026-01-13 ..."
        )
    return runs


def recall_by_age(runs: Sequence[BacktestRun]) -> dict[int, float]:
    """Return each day's recall over that of the earliest day since training: mean over the runs that have both."""
    known = [{day: mean for day, (mean, low, _) in run.by_day.items() if mean and low is not None} for run in runs]
    days = sorted({day for means in known for day in means})
    ratios = {day: [m[day] / m[days[0]] for m in known if day in m and days[0] in m] for day in days}
    return {day: sum(each) / len(each) for day, each in ratios.items() if each}


def text_rows(runs: Sequence[BacktestRun]) -> Iterator[tuple[str, ...]]:
    """Yield the head of a table, then a row for each run."""
    parts = [name for name in TARGETS if any(name in run.by_target for run in runs)]  # earlier runs did not tell
    of_parts = (text for name in parts for text in (f"of {name} targets", "model - it"))
    yield "test from", "queries", "recall@20", "best baseline", "model - it", *of_parts
    for run in runs:
        lead = with_interval(run.lead, "+.4f") if run.best else ""
        recall = with_interval(run.rankers[MODEL], ".4f")
        cells = [f"{run.begin:%Y-%m-%d}", f"{run.queries:,}", recall, run.best or "", lead]
        for name in parts:
            mean, part_lead = run.by_target.get(name, (NO_MEAN, NO_MEAN))
            cells += [with_interval(mean, ".4f"), with_interval(part_lead, "+.4f") if run.best else ""]
        yield tuple(cells)
