"""What the summary of an evaluation means in words: better or worse than which baselines, and for which queries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twotower.data.horizon import SESSION
from twotower.evaluation.intervals import Mean
from twotower.evaluation.slices import EVENT_TYPES
from twotower.evaluation.summary import PRIMARY_METRIC, STANDING, VERDICT_METRICS, WEIGHTED

MOST_SLICES = 5  # slices in which a baseline leads that are listed
ALL, ANY = "all queries", "any type"
BETTER, EQUAL, SAME, WORSE, FEW = "better", "equal", "no different", "worse", "too few sessions"
STANDING_HEAD = ("queries", "model ± 95 %", "best baseline there", "model - it", "better / same / worse")
PHRASES = {
    **{BETTER: "better than", EQUAL: "equal to", SAME: "no different from", WORSE: "worse than"},
    FEW: "too few sessions to tell it from",
}


class Difference(NamedTuple):
    """By how much a model is ahead of another ranker, in one metric, for some of the queries."""

    queries: str  # ALL, or the name of a slice
    metric: str
    other: str
    mean: Mean


def conclusions(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what must not be overlooked: pairs of a level (error, warning, good) and a text.

    The first text about the baselines is the headline: recall of all queries, by weight and by event type. Among many
    comparisons, one in forty is "worse" by chance alone.

    Args:
        summary: see summary.summarize; the warnings in its "health" and what its "ranked" leaves out are included.
    """
    texts = [("error", f"not well: {text}") for text in summary.get("health", [])]
    texts += [("warning", text) for text in _impossible(summary)]
    rows = differences(summary)
    if rows:
        names = list(dict.fromkeys(row.queries for row in rows))
        told = {row.queries for row in rows if verdict(row.mean) != FEW} | {ALL}
        shown = [name for name in names if name in told - _names(summary, STANDING[1:])]
        decisive = [row for row in rows if row.metric == PRIMARY_METRIC and row.queries in shown]
        words = {verdict(row.mean) for row in decisive}
        level = "error" if WORSE in words else "good" if words == {BETTER} else "warning"
        texts.append((level, headline(decisive)))
        texts += [("warning", text) for text in _losses(rows)]
        texts += [("warning", text) for text in _lost_slices(summary)]
    return texts


def differences(summary: Mapping[str, Any]) -> list[Difference]:
    """Return the model's lead over each baseline, in each of VERDICT_METRICS and each standing slice.

    All queries come first, then weightings, then event types: those of more weight first, and of these the rarer.
    """
    weights = summary.get("target_weights") or {}
    standing = sorted(
        (row for row in summary["standing"] if weights.get(row["group"], 1.0) > 0 or row["by"] != EVENT_TYPES),
        key=lambda row: (
            *(row["by"] != WEIGHTED, row["by"] != EVENT_TYPES, row["by"]),
            *((-weights.get(row["group"], 1.0), row["queries"]) if row["by"] == EVENT_TYPES else (0, 0)),
        ),
    )
    views = [(ALL, summary["model_minus"]), *((slice_name(row), row["model_minus"]) for row in standing)]
    return [
        Difference(name, metric, baseline, minus[baseline][metric])
        for name, minus in views
        for metric in VERDICT_METRICS
        for baseline in minus
        if metric in minus[baseline]
    ]


def slice_name(row: Mapping[str, Any]) -> str:
    """Return the name of a standing slice: "purchase targets"."""
    if row["by"] == WEIGHTED:
        return "all queries by target weight" if row["group"] == "weighted" else "all queries by price"
    return f"{row['group']} targets"


def headline(rows: Sequence[Difference]) -> str:
    """Return a sentence of all differences in one metric: which are better, worse, or neither.

    >>> headline([Difference(ALL, "mrr_at_20", "stan", [0.2, 0.1, 0.3]),
    ...           Difference("cart targets", "mrr_at_20", "stan", [-0.2, -0.3, -0.1])])
    'mrr@20 of all queries: better than stan; of cart targets: worse than stan'
    """
    names = dict.fromkeys(row.queries for row in rows)
    parts = [f"of {name}: {outcome([row for row in rows if row.queries == name])}" for name in names]
    return f"{rows[0].metric.replace('_at_', '@')} {'; '.join(parts)}"


def outcome(rows: Sequence[Difference]) -> str:
    """Return what a model is in comparison with each other ranker, for the same queries and metric, in words."""
    others: dict[str, list[str]] = {word: [] for word in PHRASES}
    for row in rows:
        others[verdict(row.mean)].append(row.other)
    parts = []
    for word, names in others.items():
        if len(names) == len(rows) > 1:
            parts.append(f"{PHRASES[word]} all {len(rows)} baselines")
        elif len(names) > 1 and word == BETTER:
            parts.append(f"{PHRASES[word]} {len(names)} of {len(rows)} baselines")
        elif names:
            parts.append(f"{PHRASES[word]} {', '.join(names)}")
    return ", ".join(parts)


def _names(summary: Mapping[str, Any], groupings: Iterable[str]) -> set[str]:
    return {slice_name(row) for row in summary["standing"] if row["by"] in groupings}


def _impossible(summary: Mapping[str, Any]) -> list[str]:
    """Say how many targets are not ranked at all, by exclude_seen and filters."""
    ranked = summary.get("ranked")
    if not ranked or not ranked["impossible"]:
        return []
    share = ranked["impossible"] / summary["queries"]
    return [
        f"{ranked['impossible']:,} of {summary['queries']:,} targets ({share:.1%}) are not ranked "
        f"({ranked['rules']}), so no ranker finds them: recall can't exceed {1 - share:.4f}"
    ]


def _losses(rows: Sequence[Difference]) -> list[str]:
    """Return for each slice in which metrics the model is worse than baselines, and by how much at the most."""
    texts: dict[str, list[str]] = {}
    for queries, metric in dict.fromkeys((row.queries, row.metric) for row in rows):
        worse = [r for r in rows if (r.queries, r.metric) == (queries, metric) and verdict(r.mean) == WORSE]
        if worse:
            most = min(worse, key=lambda row: row.mean[0] or 0.0)
            number = f"{len(worse)} baselines, most than " if len(worse) > 1 else ""
            text = f"{metric.replace('_at_', '@')} worse than {number}{most.other}, {with_interval(most.mean, '+.4f')}"
            texts.setdefault(queries, []).append(text)
    return [f"{queries}: {'; '.join(parts)}" for queries, parts in texts.items()]


def _lost_slices(summary: Mapping[str, Any]) -> list[str]:
    """Return the other slices in which the best baseline is ahead although the model beats it overall."""
    best = summary["best_baseline"]
    if best is None or verdict(summary["model_minus"][best][PRIMARY_METRIC]) != BETTER:
        return []
    rows = [row for row in summary["slices"] if row["by"] not in STANDING]
    lost = [row for row in rows if verdict(row["difference"][PRIMARY_METRIC]) == WORSE]
    lost.sort(key=lambda row: -row["queries"])
    return [
        f"{best} is ahead where {row['by']} is {row['group']} ({row['queries']:,} queries): "
        f"{with_interval(row['difference'][PRIMARY_METRIC], '+.4f')}"
        for row in lost[:MOST_SLICES]
    ]


def standing_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the head, then a row for all queries and each standing slice, of a table of recall@20 beside baselines.

    A row has the queries, their number, the model's recall, the best baseline's there, the difference, and how many
    baselines the model is better than, no different from, and worse than. Without baselines it ends with the recall.
    """
    head = ["recall@20 of", *STANDING_HEAD]
    whole = {name: summary[name] for name in ("queries", "rankers", "model_minus")}
    return _beside_baselines(head, [(ALL, whole), *((slice_name(row), row) for row in summary["standing"])])


def horizon_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of recall@20 within the horizon as `standing_rows` does, by event type; nothing without one."""
    horizon = summary.get("horizon")
    if not horizon or not horizon["rows"]:
        return []
    until = "to the session's end" if horizon["until"] == SESSION else f"of the next {horizon['until']:g} days"
    return _beside_baselines(
        [f"recall@20 {until}", *STANDING_HEAD], [(row["group"] or ANY, row) for row in horizon["rows"]]
    )


def _beside_baselines(head: Sequence[str], named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    rows = []
    for name, row in named:
        minus = {baseline: each[PRIMARY_METRIC] for baseline, each in row["model_minus"].items()}
        cells = [name, f"{row['queries']:,}", with_interval(row["rankers"]["model"][PRIMARY_METRIC], ".4f")]
        if minus:
            best = min(minus, key=lambda baseline: minus[baseline][0] or 0.0)
            recall = row["rankers"][best][PRIMARY_METRIC][0]
            words = [verdict(mean) for mean in minus.values()]
            counts = [sum(word in each for word in words) for each in ((BETTER,), (EQUAL, SAME), (WORSE,))]
            cells += [f"{best} {recall:.4f}", with_interval(minus[best], "+.4f")]
            cells.append(FEW if FEW in words else " / ".join(map(str, counts)))
        rows.append(cells)
    return [list(head[: len(rows[0])]), *rows]


def slice_cells(row: Mapping[str, Any], best: str | None) -> list[str]:
    """Return a slice's cells of a table: group, queries, recall@20, and the lead over the best baseline if any."""
    lead = [with_interval(row["difference"][PRIMARY_METRIC], "+.4f")] if best else []
    return [row["group"], f"{row['queries']:,}", with_interval(row["model"][PRIMARY_METRIC], ".4f"), *lead]


def with_interval(value: Mean, form: str) -> str:
    """Return a mean and half the width of its interval as text; 0 where all are equal; else "too few sessions"."""
    mean, low, high = value
    if mean is None or low is None or high is None:
        return FEW
    return "0" if mean == low == high == 0 else f"{mean:{form}} ±{(high - low) / 2:.4f}"


def verdict(difference: Mean) -> str:
    """Return better, equal, no different, worse or too few sessions for the [mean, low, high] of a difference."""
    mean, low, high = difference
    if low is None or high is None:
        return FEW
    return BETTER if low > 0 else WORSE if high < 0 else EQUAL if mean == low == high == 0 else SAME
