"""The page of a backtest (backtest.html): results run by run, and how fast models age."""

from collections.abc import Sequence

from twotower.evaluation.backtest import NO_MEAN, BacktestRun, recall_by_age, text_rows
from twotower.evaluation.summary import MODEL
from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.plots import over_time

MOST_BASELINES = 3  # in the plot


def backtest_page(runs: Sequence[BacktestRun]) -> str:
    """Return both plots and their numbers as one page."""
    first, last = runs[0], runs[-1]
    baselines = [name for name in first.rankers if name != MODEL and all(name in run.rankers for run in runs)]
    baselines.sort(key=lambda name: -sum(run.rankers[name][0] or 0 for run in runs))
    curves = {name: [run.rankers[name] for run in runs] for name in [MODEL, *baselines[:MOST_BASELINES]]}
    days = sorted({day for run in runs for day in run.by_day})
    by_run = {f"{run.begin:%m-%d}": [run.by_day.get(day, NO_MEAN) for day in days] for run in runs}
    ratios = ", ".join(f"day {day}: {ratio:.0%}" for day, ratio in recall_by_age(runs).items())
    in_time = over_time([run.begin for run in runs], curves, "the test begins")
    caption = f"recall as a share of the earliest day's: {ratios}"
    cards = [
        figure("Trained until then, tested after", in_time, legend=curves),
        figure("How a model ages", over_time(days, by_run, "days since training"), caption, by_run),
    ]
    tiles = {"runs": str(len(runs)), "queries": f"{sum(run.queries for run in runs):,}"}
    note = f"recall@20 with 95 % intervals; tests from {first.begin:%Y-%m-%d} to {last.begin:%Y-%m-%d} and after"
    head, *rows = text_rows(runs)
    return document("Backtest", [heading("Backtest", note, tiles), card("Run by run", table(head, rows)), grid(cards)])
