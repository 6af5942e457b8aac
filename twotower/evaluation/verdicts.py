"""What the summary of an evaluation means, in words: better, worse, or not distinguishable from chance."""

from collections.abc import Mapping
from typing import Any

from twotower.evaluation.intervals import Mean
from twotower.evaluation.summary import PRIMARY_METRIC

MOST_SLICES = 5  # slices in which a baseline leads that are listed
SECONDARY_METRICS = ("ndcg_at_20", "mrr_at_20")  # a model may be worse in these though its recall is better


def conclusions(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what must not be overlooked, worst first: pairs of a level (error, warning, good) and a text.

    With many slices, one in forty is behind by chance alone.

    Args:
        summary: see summary.summarize; the warnings in its "health" are included if it has that.
    """
    errors, warnings = [f"not well: {text}" for text in summary.get("health", [])], []
    for name, difference in summary["model_minus"].items():
        lead = verdict(difference[PRIMARY_METRIC])
        if difference[PRIMARY_METRIC][0] <= 0:
            errors.append(f"the model does not beat {name} in recall@20: do not deploy it")
            continue
        if lead != "better":
            warnings.append(
                f"the model is ahead of {name} in recall@20, but that may be chance ({lead}): get more test data"
            )
        for metric in SECONDARY_METRICS:
            if metric in difference and verdict(difference[metric]) == "worse":
                behind = with_interval(difference[metric], "+.4f")
                warnings.append(f"{name} is ahead of the model in {metric.replace('_at_', '@')}: {behind}")
    texts = [*(("error", text) for text in errors), *(("warning", text) for text in warnings)]
    texts += [("warning", text) for text in _lost_slices(summary)]
    leads = [verdict(difference[PRIMARY_METRIC]) for difference in summary["model_minus"].values()]
    if leads and set(leads) == {"better"}:
        texts.append(("good", f"the model beats all {len(leads)} baselines in recall@20, beyond chance"))
    return texts


def _lost_slices(summary: Mapping[str, Any]) -> list[str]:
    """Return the slices in which the best baseline is ahead although the model beats it overall."""
    best = summary["best_baseline"]
    if best is None or verdict(summary["model_minus"][best][PRIMARY_METRIC]) != "better":
        return []
    lost = [row for row in summary["slices"] if verdict(row["difference"][PRIMARY_METRIC]) == "worse"]
    lost.sort(key=lambda row: -row["queries"])
    return [
        f"{best} is ahead where {row['by']} is {row['group']} ({row['queries']:,} queries): "
        f"{with_interval(row['difference'][PRIMARY_METRIC], '+.4f')}"
        for row in lost[:MOST_SLICES]
    ]


def slice_cells(row: Mapping[str, Any], best: str | None) -> list[str]:
    """Return a slice's cells of a table: group, queries, recall@20, and the lead over the best baseline if any."""
    lead = [with_interval(row["difference"][PRIMARY_METRIC], "+.4f")] if best else []
    return [row["group"], f"{row['queries']:,}", with_interval(row["model"][PRIMARY_METRIC], ".4f"), *lead]


def with_interval(value: Mean, form: str) -> str:
    """Return a mean and half the width of its interval as text, or that there are too few sessions for one."""
    mean, low, high = value
    if mean is None or low is None or high is None:
        return "too few sessions"
    return f"{mean:{form}} ±{(high - low) / 2:.4f}"


def verdict(difference: Mean) -> str:
    """Return better, worse, equal, unclear or too few sessions for the [mean, low, high] of a difference."""
    _, low, high = difference
    if low is None or high is None:
        return "too few sessions"
    if low == high == 0:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "unclear"
