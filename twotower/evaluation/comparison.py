"""Compare two models on the queries that both ranked: by how much one is better, in which slices, or by chance."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.schema import TOWER_FILE
from twotower.evaluation.intervals import Mean, bootstrap_means
from twotower.evaluation.results_file import RESULTS_FILE, SavedResults, read_results
from twotower.evaluation.summary import PRIMARY_METRIC, STANDING, VERDICT_METRICS, WEIGHTED
from twotower.evaluation.verdicts import ALL, Difference, headline, slice_name
from twotower.metrics.ranking_results import RankingResults, per_query_metrics

SECOND = "B"  # the name of the second model in verdicts; the first is A


class Row(NamedTuple):
    """One metric, or one slice of the queries; each mean is [mean, low, high]."""

    by: str  # the metric; of a slice the grouping
    group: str
    queries: int
    first: Mean
    second: Mean
    difference: Mean  # first - second


class Comparison(NamedTuple):
    """The comparison of two models."""

    metric: str  # that the slices are about
    metrics: list[Row]  # every metric over all common queries
    slices: list[Row]  # `metric` by slice
    verdicts: list[str]  # what the first is, beside the second: of `metric`, then of other metrics


def compare_runs(first: Path, second: Path, metric: str = PRIMARY_METRIC) -> Comparison:
    """Compare two runs or evaluations, each in its folder.

    Raises:
        UserError: a folder has no test results, or see compare_results.
    """
    return compare_results(_results_of(first), _results_of(second), metric)


def compare_results(
    first: SavedResults, second: SavedResults, metric: str, replicates: int = 1000, unranked_is_missed: bool = False
) -> Comparison:
    """Compare two models' results.

    Args:
        first: results of one model; the queries' sessions and groups are those that it has.
        second: of the other.
        metric: of the slices.
        replicates: of the bootstrap.
        unranked_is_missed: compare on all queries of the first, and count those that the second does not rank, as it
            does not know their item, as not found; False: compare on the queries that both ranked.

    Raises:
        UserError: they are of different data, have no query in common, or `metric` is unknown.
    """
    if first.fingerprint != second.fingerprint:
        raise UserError(
            f"the two were evaluated on different data (fingerprints {first.fingerprint} and {second.fingerprint}); "
            "evaluate both on one: the same files, preparation and split"
        )
    if first.rules != second.rules:
        rules = " and ".join(repr(saved.rules or "all items") for saved in (first, second))
        raise UserError(
            f"the two ranked other items ({rules}); evaluate both with the same evaluation.exclude_seen, filters"
        )
    _, left, right = np.intersect1d(first.ranking.event, second.ranking.event, return_indices=True)
    if len(left) == 0:
        raise UserError("the two have no query in common; evaluate both with the same evaluation.min_history")
    ks = [k for k in first.ks if k in second.ks]
    rankings = (
        RankingResults(*(column[rows] for column in saved.ranking)) for saved, rows in ((first, left), (second, right))
    )
    values, others = (per_query_metrics(ranking, ks) for ranking in rankings)
    if unranked_is_missed:
        missed = {name: np.zeros(len(first.session), value.dtype) for name, value in others.items()}
        for name, value in others.items():
            missed[name][left] = value
        values, others, left = per_query_metrics(first.ranking, ks), missed, np.arange(len(first.session))
    if metric not in values:
        raise UserError(f"there is no metric {metric}; there are {', '.join(values)}")
    stacked = np.stack([x for m in values for x in (values[m], others[m], values[m] - others[m])], axis=1)
    session = first.session[left]
    total = bootstrap_means(stacked, session, (), replicates)
    place = list(values).index(metric)
    groupings = [g._replace(code=g.code[left]) for g in first.groupings]
    of_metric = stacked[:, 3 * place : 3 * place + 3]
    sliced = bootstrap_means(of_metric, session, [g.code for g in groupings], replicates)
    metrics = [Row(m, "", len(left), *(total.of(0, 3 * k + c) for c in range(3))) for k, m in enumerate(values)]
    names = [(g.name, group) for g in groupings for group in g.used()]
    slices = [
        Row(by, group, int(sliced.queries[k]), *(sliced.of(k, c) for c in range(3)))
        for k, (by, group) in enumerate(names, start=1)
        if sliced.queries[k]
    ]
    weighted = []
    for name in [name for name in first.weights if name in second.weights]:
        means = bootstrap_means(of_metric, session, (), replicates, weight=first.weights[name][left])
        weighted.append(Row(WEIGHTED, name, len(left), *(means.of(0, c) for c in range(3))))
    slices = weighted + slices
    of_all = [Difference(ALL, row.by, SECOND, row.difference) for row in metrics]
    standing = [
        Difference(slice_name(row._asdict()), metric, SECOND, row.difference)
        for row in slices
        if row.by in (WEIGHTED, *STANDING)
    ]
    secondary = [[row] for row in of_all if row.metric in VERDICT_METRICS and row.metric != metric]
    return Comparison(metric, metrics, slices, [headline(rows) for rows in [[of_all[place], *standing], *secondary]])


def _results_of(run: Path) -> SavedResults:
    if (run / TOWER_FILE).exists():
        raise UserError(
            f"{run} is a bundle, which has no test results yet: {command('evaluate', run.resolve())} with the "
            "settings of the data; then compare the folder that this prints last"
        )
    return read_results(run / RESULTS_FILE)
