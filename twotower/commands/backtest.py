"""How a model would have done day after day, and how fast it ages: twotower backtest RUN RUN [RUN ...]

Each run knows the data as it was at a time (preparation.until), and was tested on the last days (split.test_days):

    python train.py -m data=events data.path=... split.test_days=3 preparation.until=2026-01-10,2026-01-13,2026-01-16
    python -m twotower.commands.backtest multirun/DATE/TIME

A folder stands for all runs in it. Prints the tables, and writes time_forward.html.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Column, Table

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_bytes
from twotower.evaluation.assessment import MODEL, PRIMARY_METRIC
from twotower.evaluation.intervals import Mean
from twotower.evaluation.slices import AGE
from twotower.evaluation.verdicts import with_interval
from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.plots import over_time
from twotower.runs.layout import ASSESSMENT_FILE, DATA_FILE

PAGE_FILE = "time_forward.html"
HEAD = ("test from", "queries", "recall@20", "best baseline", "model - it")


class Origin(NamedTuple):
    """One run: trained on all before a moment, tested on what came then."""

    path: Path
    begin: datetime  # of the test
    queries: int
    rankers: dict[str, Mean]  # PRIMARY_METRIC of the model and of each baseline
    lead: Mean  # the model's over the best baseline
    best: str | None
    by_day: dict[int, Mean]  # the model's, by the day since training


def read_origin(path: Path) -> Origin:
    """A run's own figures; raises UserError where its test has no time."""
    found = read_json(path / ASSESSMENT_FILE, "a run that has been tested")
    split = read_json(path / DATA_FILE, "a run directory")["split"]
    rows = [row for row in found["slices"] if row["by"] == AGE and row["group"].startswith("day ")]
    if "test_start" not in split or not rows:
        raise UserError(f"{path} was not tested by time; train it with split=temporal, on timestamps that are times")
    best = found["best_baseline"]
    return Origin(
        path,
        datetime.fromtimestamp(split["test_start"] / 1000, UTC),
        found["queries"],
        {name: means[PRIMARY_METRIC] for name, means in found["rankers"].items()},
        found["model_minus"][best][PRIMARY_METRIC] if best else [None, None, None],
        best,
        {int(row["group"].removeprefix("day ")): row["model"][PRIMARY_METRIC] for row in rows},
    )


def find(paths: Sequence[Path]) -> list[Origin]:
    """All runs in these folders, by the time of their test; raises UserError for fewer than two."""
    files = {file for path in paths for file in path.rglob(ASSESSMENT_FILE)}
    origins = sorted((read_origin(file.parent) for file in files), key=lambda origin: origin.begin)
    if len({origin.begin for origin in origins}) < 2:
        raise UserError(
            f"{len(origins)} tested run(s) in {', '.join(map(str, paths))}; expected two and more whose tests begin at "
            "different times: python train.py -m split.test_days=3 preparation.until=2026-01-10,2026-01-13 ..."
        )
    return origins


def ageing(origins: Sequence[Origin]) -> dict[int, float]:
    """What is left of the earliest day's recall on each later one: mean over the runs that have both."""
    known = [
        {day: mean for day, (mean, low, _) in origin.by_day.items() if mean and low is not None} for origin in origins
    ]
    first = min((day for means in known for day in means), default=0)
    kept = {}
    for day in sorted({day for means in known for day in means}):
        shares = [means[day] / means[first] for means in known if day in means and first in means]
        if shares:
            kept[day] = sum(shares) / len(shares)
    return kept


def rows_of(origins: Sequence[Origin]) -> Iterator[tuple[str, ...]]:
    """A line a run, as text."""
    for origin in origins:
        lead = with_interval(origin.lead, "+.4f") if origin.best else ""
        own = with_interval(origin.rankers[MODEL], ".4f")
        yield f"{origin.begin:%Y-%m-%d}", f"{origin.queries:,}", own, origin.best or "", lead


def page(origins: Sequence[Origin]) -> str:
    """Both plots and their numbers."""
    first, last = origins[0], origins[-1]
    times = [origin.begin for origin in origins]
    names = [name for name in first.rankers if all(name in origin.rankers for origin in origins)]
    best = sorted(names[1:], key=lambda name: -sum(o.rankers[name][0] or 0 for o in origins))[:3]
    lines = {name: [o.rankers[name] for o in origins] for name in [MODEL, *best]}
    days = sorted({day for origin in origins for day in origin.by_day})
    unknown: Mean = [None, None, None]
    aged = {f"{o.begin:%m-%d}": [o.by_day.get(day, unknown) for day in days] for o in origins}
    kept = ageing(origins)
    told = ", ".join(f"day {day}: {share:.0%}" for day, share in kept.items())
    cards = [
        figure("Trained until then, tested after", over_time(times, lines, "the test begins"), legend=list(lines)),
        figure(
            "How a model ages",
            over_time(days, aged, "days since training"),
            f"of the earliest day's recall: {told}",
            aged,
        ),
    ]
    tiles = {"runs": str(len(origins)), "queries": f"{sum(o.queries for o in origins):,}"}
    note = f"recall@20 with 95 % intervals; tests from {first.begin:%Y-%m-%d} to {last.begin:%Y-%m-%d} and after"
    numbers = card("Run by run", table(HEAD, rows_of(origins)))
    return document("Time forward", [heading("Time forward", note, tiles), numbers, grid(cards)])


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m twotower.commands.backtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs' folders, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path(PAGE_FILE), help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        origins = find(options.runs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    runs = Table(Column(HEAD[0], no_wrap=True), *HEAD[1:])
    age = Table("days since training", "recall@20, of the earliest day's")
    for row in rows_of(origins):
        runs.add_row(*row)
    for day, share in ageing(origins).items():
        age.add_row(str(day), f"{share:.1%}")
    console.print(runs)
    console.print(age)
    write_bytes(options.out, page(origins).encode())
    print(f"page: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
