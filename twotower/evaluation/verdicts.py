"""What an assessment says in words."""

from collections.abc import Mapping
from typing import Any

from twotower.evaluation.assessment import PRIMARY_METRIC
from twotower.evaluation.intervals import Mean

FEW = 5  # slices that are told of
BESIDE = ("ndcg_at_20", "mrr_at_20")  # what a model may be worse in though it finds more


def judgements(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What must not be overlooked of a model and its baselines, worst first: levels (error, warning, good) and texts.

    Slices are many, so that one in forty is lost by chance alone.

    Args:
        found: see assessment.assess; where it has "health", its warnings are told, too.
    """
    errors, warnings = [f"not well: {text}" for text in found.get("health", [])], []
    for name, difference in found["model_minus"].items():
        mean, says = difference[PRIMARY_METRIC][0], verdict(difference[PRIMARY_METRIC])
        if mean <= 0:
            errors.append(f"the model does not beat {name} in recall@20: it has no business being deployed")
            continue
        if says != "better":
            warnings.append(
                f"the model is ahead of {name} in recall@20, but chance alone may have done that ({says}): "
                "get more test data"
            )
        for metric in BESIDE:
            if metric in difference and verdict(difference[metric]) == "worse":
                behind = with_interval(difference[metric], "+.4f")
                warnings.append(f"{name} is ahead of the model in {metric.replace('_at_', '@')}: {behind}")
    told = [*(("error", text) for text in errors), *(("warning", text) for text in warnings)]
    told += [("warning", text) for text in _lost_slices(found)]
    if found["model_minus"] and all(verdict(d[PRIMARY_METRIC]) == "better" for d in found["model_minus"].values()):
        told.append(("good", f"the model beats all {len(found['model_minus'])} baselines in recall@20, not by chance"))
    return told


def _lost_slices(found: Mapping[str, Any]) -> list[str]:
    """Kinds of queries in which the best baseline is ahead of a model that beats it on the whole."""
    best = found["best_baseline"]
    if best is None or verdict(found["model_minus"][best][PRIMARY_METRIC]) != "better":
        return []
    lost = [row for row in found["slices"] if verdict(row["difference"][PRIMARY_METRIC]) == "worse"]
    lost.sort(key=lambda row: -row["queries"])
    return [
        f"{best} is ahead where {row['by']} is {row['group']} ({row['queries']:,} queries): "
        f"{with_interval(row['difference'][PRIMARY_METRIC], '+.4f')}"
        for row in lost[:FEW]
    ]


def with_interval(value: Mean, form: str) -> str:
    """A mean and half the width of its interval, or that there are too few sessions for one."""
    mean, low, high = value
    if mean is None or low is None or high is None:
        return "too few sessions"
    return f"{mean:{form}} ±{(high - low) / 2:.4f}"


def verdict(difference: Mean) -> str:
    """What [mean, low, high] of a difference says."""
    _, low, high = difference
    if low is None or high is None:
        return "too few sessions"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"
