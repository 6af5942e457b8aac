"""Which of two models is better, by how much, for whom, and could it be luck: twotower compare RUN RUN

Both have answered the queries of the same data. A run is a folder as train.py prints it, that of a run or of an
evaluation (train.py evaluate=BUNDLE makes one of a bundle), or the id of an MLflow run.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from twotower.core.errors import UserError
from twotower.core.schema import TOWER_FILE
from twotower.evaluation.assessment import PRIMARY_METRIC
from twotower.evaluation.intervals import Mean, means
from twotower.evaluation.record import RECORD_FILE, Record, read_record
from twotower.evaluation.verdicts import verdict, with_interval
from twotower.metrics.results import RankingResults, per_query_metrics
from twotower.tracking.lookup import located


class Row(NamedTuple):
    """One comparison."""

    by: str  # a metric; of a slice the grouping
    group: str
    queries: int
    first: Mean
    second: Mean
    difference: Mean


def compare(first: Record, second: Record, metric: str, replicates: int = 1000) -> tuple[list[Row], list[Row]]:
    """All metrics over all queries, and `metric` by slice.

    Raises:
        UserError: they answered other data, have no query in common, or `metric` is not known.
    """
    if first.fingerprint != second.fingerprint:
        raise UserError(
            f"the two were evaluated on different data (fingerprints {first.fingerprint} and {second.fingerprint}); "
            "evaluate both on one: the same files, preparation and split"
        )
    _, one, other = np.intersect1d(first.answers.event, second.answers.event, return_indices=True)
    if len(one) == 0:
        raise UserError("the two have no query in common; evaluate both with the same evaluation.min_history")
    ks = [k for k in first.ks if k in second.ks]
    own, its = per_query_metrics(_some(first.answers, one), ks), per_query_metrics(_some(second.answers, other), ks)
    if metric not in own:
        raise UserError(f"there is no metric {metric}; there are {', '.join(own)}")
    stacked = np.stack([column for m in own for column in (own[m], its[m], own[m] - its[m])], axis=1)
    groupings = [g._replace(code=g.code[one]) for g in first.groupings]
    total = means(stacked, first.session[one], (), replicates)
    place = 3 * list(own).index(metric)
    sliced = means(stacked[:, place : place + 3], first.session[one], [g.code for g in groupings], replicates)

    metrics = [Row(m, "", len(one), *(total.of(0, 3 * k + c) for c in range(3))) for k, m in enumerate(own)]
    names = [(g.name, group) for g in groupings for group in g.used()]
    slices = [
        Row(by, group, int(sliced.queries[k]), *(sliced.of(k, c) for c in range(3)))
        for k, (by, group) in enumerate(names, start=1)
        if sliced.queries[k]
    ]
    return metrics, slices


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m twotower.commands.compare", description=__doc__)
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, or the id of an MLflow run")
    parser.add_argument("--metric", default=PRIMARY_METRIC, help="that slices are compared by (default: %(default)s)")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        first, second = (_record(run, options.tracking_uri) for run in options.runs)
        metrics, slices = compare(first, second, options.metric)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.print(
        f"A: {options.runs[0]}\nB: {options.runs[1]}\n{metrics[0].queries:,} queries, ± half of the 95 % interval"
    )
    console.print(_table(metrics, "metric"))
    console.print(_table(slices, f"{options.metric} by"))
    decided = next(row for row in metrics if row.by == options.metric)
    words = {"better": "A is better", "worse": "B is better"}
    found = verdict(decided.difference)
    console.print(f"{options.metric}: {words.get(found, found)}", style="bold")
    return 0


def _table(rows: Sequence[Row], heading: str) -> Table:
    table = Table(heading, "", "queries", "A", "B", "A - B", "A is")
    before = ""
    for row in rows:
        by, before = ("" if row.by == before else row.by), row.by
        own, its = (f"{value[0]:.4f}" for value in (row.first, row.second))
        says = verdict(row.difference)
        style = {"better": "green", "worse": "red"}.get(says)
        table.add_row(
            by, row.group, f"{row.queries:,}", own, its, with_interval(row.difference, "+.4f"), says, style=style
        )
    return table


def _some(answers: RankingResults, rows: npt.NDArray[np.intp]) -> RankingResults:
    return RankingResults(*(column[rows] for column in answers))


def _record(run: str, tracking_uri: str) -> Record:
    """From a folder or from MLflow."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = located(run, tracking_uri, Path(scratch), RECORD_FILE)
        if not folder.is_dir():
            raise UserError(f"{run} is neither a folder nor the id of an MLflow run")
        if (folder / TOWER_FILE).exists():
            raise UserError(
                f"{run} is a bundle, which has answered nothing yet: python train.py evaluate={run} and the data's "
                "settings; then compare the folder that this prints last"
            )
        return read_record(folder / RECORD_FILE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
