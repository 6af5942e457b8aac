"""The summary of an evaluation (assessment.json): metrics of model and baselines, by slice, with confidence intervals.

Shapes: Q queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.evaluation.intervals import BootstrapMeans, Mean, bootstrap_means
from twotower.evaluation.slices import EVENT_TYPES, TARGET, Grouping
from twotower.metrics.ranking_results import RankingResults, per_query_metrics

Array = npt.NDArray[Any]
Columns = dict[tuple[str, str], Array]  # (ranker, "lists" or "- BASELINE"; metric) -> [Q] values
MODEL, LISTS = "model", "lists"
PRIMARY_METRIC = "recall_at_20"  # picks the best baseline
VERDICT_METRICS = (PRIMARY_METRIC, "ndcg_at_20", "mrr_at_20")
WEIGHTED = "weighted"  # `by` of standing slices that are all queries, each with a weight
STANDING = (EVENT_TYPES, TARGET)  # groupings whose groups are standing slices


def summarize(
    results: Mapping[str, RankingResults],
    session: Array,
    groupings: Sequence[Grouping],
    ks: Sequence[int],
    lists: Mapping[str, Array],
    replicates: int,
    seed: int,
    weights: Mapping[str, Array],
) -> dict[str, Any]:
    """Return all means with their intervals, ready for JSON: a mean is [mean, low, high].

    Args:
        results: of MODEL and of each baseline, for the same queries in the same order.
        session: [Q] of each query.
        groupings: of the queries.
        ks: cut-offs.
        lists: further metrics of the model's lists, each [Q].
        replicates: of the bootstrap.
        seed: of its draws.
        weights: weightings of the queries by name, each [Q], 0 or more.

    Returns:
        {"queries", "sessions",
         "rankers": {name: {metric: mean}}, "lists": {name: mean},
         "model_minus": {baseline: {metric: mean of the difference}},
         "standing": [{"by", "group", "queries", "sessions", "rankers", "model_minus"}], as above in VERDICT_METRICS, of
         the slices that every verdict weighs: event types, repeated and new targets, and all queries by each weighting,
         "best_baseline": its name or None,
         "disparity": [{"by", "best", "worst": groups, "difference": mean}] of the model in PRIMARY_METRIC,
         "slices": [{"by", "group", "queries", "sessions", "model": {metric: mean}, "lists": {name: mean},
                     "difference": {metric: mean of model - best baseline}}]}
    """
    values = {name: per_query_metrics(each, ks) for name, each in results.items()}
    baselines = [name for name in values if name != MODEL]
    best = max(baselines, key=lambda name: float(values[name][PRIMARY_METRIC].mean()), default=None)
    columns: Columns = {(LISTS, name): value for name, value in lists.items()} | _columns(values)
    total = bootstrap_means(np.stack(list(columns.values()), axis=1), session, (), replicates, seed)
    sliced_columns = {key: value for key, value in columns.items() if key[0] in (MODEL, LISTS, f"- {best}")}
    stacked = np.stack(list(sliced_columns.values()), axis=1)
    sliced = bootstrap_means(stacked, session, [g.code for g in groupings], replicates, seed)
    of_verdicts = {key: value for key, value in columns.items() if key[1] in VERDICT_METRICS and key[0] != LISTS}
    stacked = np.stack(list(of_verdicts.values()), axis=1)
    standing_groupings = [grouping for grouping in groupings if grouping.name in STANDING]
    grouped = bootstrap_means(stacked, session, [g.code for g in standing_groupings], replicates, seed)
    standing = [_rankers(grouped, row, of_verdicts, by, group) for row, by, group in _used(grouped, standing_groupings)]
    for name, weight in weights.items():
        means = bootstrap_means(stacked, session, (), replicates, seed, weight)
        standing.append(_rankers(means, 0, of_verdicts, WEIGHTED, name))
    return {
        "queries": int(total.queries[0]),
        "sessions": int(total.sessions[0]),
        "rankers": {name: _means_of(total, 0, columns, name) for name in results},
        "lists": _means_of(total, 0, columns, LISTS),
        "model_minus": {name: _means_of(total, 0, columns, f"- {name}") for name in baselines},
        "standing": standing,
        "best_baseline": best,
        "disparity": _disparity(sliced, groupings, list(sliced_columns).index((MODEL, PRIMARY_METRIC))),
        "slices": _slices(sliced, groupings, sliced_columns, f"- {best}"),
    }


def summarize_rankers(
    values: Mapping[str, Mapping[str, Array]], session: Array, by: str, group: str, replicates: int, seed: int
) -> dict[str, Any]:
    """Return means of metrics by ranker and name, each [Q], in the form of a row of "standing"; see summarize."""
    columns = _columns(values)
    means = bootstrap_means(np.stack(list(columns.values()), axis=1), session, (), replicates, seed)
    return _rankers(means, 0, columns, by, group)


def _columns(values: Mapping[str, Mapping[str, Array]]) -> Columns:
    """Return metrics of rankers, and the model's lead over each baseline."""
    columns: Columns = {}
    for name, metrics in values.items():
        columns |= {(name, metric): value for metric, value in metrics.items()}
        if name != MODEL:
            columns |= {(f"- {name}", metric): values[MODEL][metric] - value for metric, value in metrics.items()}
    return columns


def _used(means: BootstrapMeans, groupings: Sequence[Grouping]) -> list[tuple[int, str, str]]:
    """Return row of `means`, grouping and group of each group that has queries."""
    names = [(grouping.name, group) for grouping in groupings for group in grouping.used()]
    return [(row, by, group) for row, (by, group) in enumerate(names, start=1) if means.queries[row]]


def _rankers(means: BootstrapMeans, row: int, columns: Columns, by: str, group: str) -> dict[str, Any]:
    owners = dict.fromkeys(owner for owner, _ in columns)
    return {
        **{"by": by, "group": group, "queries": int(means.queries[row]), "sessions": int(means.sessions[row])},
        "rankers": {name: _means_of(means, row, columns, name) for name in owners if not name.startswith("- ")},
        "model_minus": {
            name.removeprefix("- "): _means_of(means, row, columns, name) for name in owners if name.startswith("- ")
        },
    }


def _slices(means: BootstrapMeans, groupings: Sequence[Grouping], columns: Columns, difference: str) -> list[Any]:
    return [
        {
            "by": by,
            "group": group,
            "queries": int(means.queries[row]),
            "sessions": int(means.sessions[row]),
            "model": _means_of(means, row, columns, MODEL),
            "lists": _means_of(means, row, columns, LISTS),
            "difference": _means_of(means, row, columns, difference),
        }
        for row, by, group in _used(means, groupings)
    ]


def _disparity(means: BootstrapMeans, groupings: Sequence[Grouping], metric: int) -> list[dict[str, Any]]:
    """Return the gap between the best and the worst group, of those with intervals (Li et al. 2021).

    The two are picked by the queries that they are compared on, so among many groups some gap is certain.
    """
    rows = []
    first = 1
    for grouping in groupings:
        names = grouping.used()
        known = first + np.flatnonzero(~np.isnan(means.tail[first : first + len(names)]))
        if len(known) > 1:
            order = known[np.argsort(means.mean[known, metric], kind="stable")]
            best, worst = int(order[-1]), int(order[0])
            groups = {"best": names[best - first], "worst": names[worst - first]}
            rows.append({"by": grouping.name, **groups, "difference": means.difference(best, worst, metric)})
        first += len(names)
    return rows


def _means_of(means: BootstrapMeans, group: int, columns: Columns, owner: str) -> dict[str, Mean]:
    """Return the means of one ranker's (or of the lists', or a difference's) metrics in one group."""
    return {metric: means.of(group, k) for k, (name, metric) in enumerate(columns) if name == owner}
