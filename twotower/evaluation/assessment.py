"""How good a model is, beside baselines, by kind of query, and how sure that is: everything but the training.

Shapes: Q queries, V items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.evaluation.intervals import Mean, Means, means
from twotower.evaluation.slices import Grouping, QueryFacts
from twotower.metrics.results import RankingResults, per_query_metrics

Array = npt.NDArray[Any]
MODEL = "model"
PRIMARY_METRIC = "recall_at_20"  # what the best baseline, and the verdict, are told by


def assess(
    answers: Mapping[str, RankingResults],
    facts: QueryFacts,
    groupings: Sequence[Grouping],
    ks: Sequence[int],
    lists: Mapping[str, Array],
    replicates: int,
    seed: int,
    weights: Mapping[str, Array],
) -> dict[str, Any]:
    """All means with their intervals, ready for JSON: a mean is [mean, low, high].

    Args:
        answers: those of MODEL and of each baseline, to the same queries in the same order.
        facts: of the queries.
        groupings: of the queries.
        ks: cut-offs.
        lists: more about the model's answers, each [Q].
        replicates: of the bootstrap.
        seed: of its draws.
        weights: kinds of worth that a query may have, each [Q], 0 or more.

    Returns:
        {"queries", "sessions",
         "rankers": {name: {metric: mean}}, "lists": {name: mean},
         "model_minus": {baseline: {metric: mean of the difference}},
         "weighted": {kind of worth: {name: mean of PRIMARY_METRIC where each query counts what it is worth}},
         "best_baseline": its name or None,
         "disparity": [{"by", "best", "worst": groups, "difference": mean}] of the model in PRIMARY_METRIC,
         "slices": [{"by", "group", "queries", "sessions", "model": {metric: mean}, "lists": {name: mean},
                     "difference": {metric: mean of model - best baseline}}]}
    """
    gain = {name: per_query_metrics(own, ks) for name, own in answers.items()}
    others = [name for name in gain if name != MODEL]
    best = max(others, key=lambda name: float(gain[name][PRIMARY_METRIC].mean()), default=None)
    columns: dict[tuple[str, str], Array] = {("lists", name): value for name, value in lists.items()}
    for name, own in gain.items():
        columns |= {(name, metric): value for metric, value in own.items()}
        if name != MODEL:
            columns |= {(f"- {name}", m): gain[MODEL][m] - value for m, value in own.items()}
    total = means(np.stack(list(columns.values()), axis=1), facts.session, (), replicates, seed)
    kept = [key for key in columns if key[0] in (MODEL, "lists", f"- {best}")]
    values = np.stack([columns[key] for key in kept], axis=1)
    sliced = means(values, facts.session, [g.code for g in groupings], replicates, seed)
    rows = [(g.name, group) for g in groupings for group in g.used()]
    slices = [
        {
            "by": by,
            "group": group,
            "queries": int(sliced.queries[row]),
            "sessions": int(sliced.sessions[row]),
            "model": _of(sliced, row, kept, MODEL),
            "lists": _of(sliced, row, kept, "lists"),
            "difference": _of(sliced, row, kept, f"- {best}"),
        }
        for row, (by, group) in enumerate(rows, start=1)
        if sliced.queries[row]
    ]
    deciding = np.stack([own[PRIMARY_METRIC] for own in gain.values()], axis=1)
    weighted = {}
    for kind, weight in weights.items():
        worth = means(deciding, facts.session, (), replicates, seed, weight)
        weighted[kind] = {name: worth.of(0, k) for k, name in enumerate(gain)}
    names = list(columns)
    return {
        "queries": int(total.queries[0]),
        "sessions": int(total.sessions[0]),
        "rankers": {name: _of(total, 0, names, name) for name in answers},
        "lists": _of(total, 0, names, "lists"),
        "model_minus": {name: _of(total, 0, names, f"- {name}") for name in others},
        "weighted": weighted,
        "best_baseline": best,
        "disparity": _disparity(sliced, groupings, kept.index((MODEL, PRIMARY_METRIC))),
        "slices": slices,
    }


def _disparity(found: Means, groupings: Sequence[Grouping], metric: int) -> list[dict[str, Any]]:
    """How far the best served group is from the worst served one, of those with intervals (Li et al. 2021).

    The two are picked by the same queries, so that among many groups some gap is certain.
    """
    rows = []
    first = 1
    for grouping in groupings:
        names = grouping.used()
        sure = first + np.flatnonzero(~np.isnan(found.tail[first : first + len(names)]))
        if len(sure) > 1:
            order = sure[np.argsort(found.mean[sure, metric], kind="stable")]
            best, worst = int(order[-1]), int(order[0])
            groups = {"best": names[best - first], "worst": names[worst - first]}
            rows.append({"by": grouping.name, **groups, "difference": found.difference(best, worst, metric)})
        first += len(names)
    return rows


def _of(found: Means, row: int, names: Sequence[tuple[str, str]], owner: str) -> dict[str, Mean]:
    """The means of one owner in one group."""
    return {metric: found.of(row, k) for k, (name, metric) in enumerate(names) if name == owner}
