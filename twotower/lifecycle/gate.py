"""The gate: whether a candidate may take the champion's place.

Over all queries the candidate must be non-inferior: the whole 95 % interval of the paired difference lies above minus
the margin (Piaggio et al. 2012), so a test with too few sessions to tell refuses. Event types, slices and further
metrics are many, and most have too few sessions for that; there a loss refuses that is larger than its margin and that
chance does not explain, by Holm's correction for the number of comparisons (Holm 1979).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from twotower.evaluation.comparison import Comparison, Row
from twotower.evaluation.intervals import LEVEL, Mean
from twotower.evaluation.summary import MODEL, VERDICT_METRICS
from twotower.evaluation.verdicts import WORSE, slice_name, verdict, with_interval

FALSE_ALARMS = 0.05  # most of all comparisons of two equal models in which a slice refuses
WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard errors from the mean to an end of its interval
SHOWN = 3  # slices in a text
SLACK = 1.0  # MB, and ms of an answer, that never refuse: so much a busy machine adds


class Check(NamedTuple):
    """One thing that a candidate must fulfil.

    >>> Check("parity", True, "answers as the trained model does").passed
    True
    """

    name: str
    passed: bool
    text: str  # what was found


def quality_checks(comparison: Comparison, sessions: int, margin: float, slice_margin: float) -> list[Check]:
    """Check that the candidate (the first model of the comparison) is not worse than the champion (the second).

    Args:
        comparison: on the same queries; its metric decides.
        sessions: how many sessions the queries are of.
        margin: share of the champion's metric that may be lost over all queries.
        slice_margin: the same for each event type, slice and further metric of VERDICT_METRICS.
    """
    whole = next(row for row in comparison.metrics if row.by == comparison.metric)
    others = [row for row in comparison.metrics if row.by in VERDICT_METRICS and row is not whole]
    return [_non_inferior(whole, sessions, margin), _no_slice_lost([*others, *comparison.slices], slice_margin)]


def _non_inferior(row: Row, sessions: int, margin: float) -> Check:
    name = f"{_words(row)} of all queries"
    (mean, low, high), (champion, *_) = row.difference, row.second
    if mean is None or low is None or high is None or champion is None:
        return Check(name, False, f"{sessions:,} sessions are too few for an interval; take a longer test")
    allowed = margin * champion
    text = (
        f"{row.first[0]:.4f}, the champion {champion:.4f}: {with_interval(row.difference, '+.4f')}; "
        f"a loss of up to {allowed:.4f} ({margin:.1%}) is allowed"
    )
    if low >= -allowed:
        return Check(name, True, text)
    if mean <= -allowed:
        return Check(name, False, text)
    needed = math.ceil(sessions * ((mean - low) / (mean + allowed)) ** 2)
    return Check(
        name,
        False,
        f"{text}; too few sessions to tell: {sessions:,} of about {needed:,}; take a longer test (split.test_days)",
    )


def _no_slice_lost(rows: Sequence[Row], margin: float) -> Check:
    known = [row for row in rows if None not in row.difference and row.second[0]]
    chances = holm([_chance(row.difference) for row in known])
    lost = [
        row
        for row, chance in zip(known, chances, strict=True)
        if chance < FALSE_ALARMS and float(row.difference[0] or 0) < -margin * float(row.second[0] or 0)
    ]
    lost.sort(key=lambda row: float(row.difference[0] or 0) / float(row.second[0] or 1))
    told = "; ".join(
        f"{_name(row)}: {row.first[0]:.4f} after {row.second[0]:.4f} ({row.queries:,} queries)" for row in lost[:SHOWN]
    )
    few = f", {len(rows) - len(known)} have too few sessions" if len(known) < len(rows) else ""
    text = f"of {len(known)} none lost more than {margin:.0%} beyond chance{few}"
    return Check(
        "event types, slices, metrics", not lost, f"{len(lost)} of {len(known)} lost: {told}" if lost else text
    )


def holm(chances: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number.

    >>> holm([0.01, 0.5, 0.03])
    [0.03, 0.5, 0.06]
    """
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    corrected, most = [0.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, chances[place] * (len(chances) - rank)))
        corrected[place] = most
    return corrected


def _chance(difference: Mean) -> float:
    """Return the probability of a difference as low as this one between equal models."""
    mean, low, high = (float(value or 0) for value in difference)
    if high == low:
        return float(mean >= 0)
    return NormalDist().cdf(mean / ((high - low) / 2 / WIDTH))


def soundness_checks(findings: Iterable[Mapping[str, Any]], summary: Mapping[str, Any], metric: str) -> list[Check]:
    """Check what needs no champion: the audit of the data, signs of collapse, and the best baseline.

    Args:
        findings: of the audit.
        summary: of the candidate's test, see evaluation.summary.
        metric: that decides.
    """
    errors = [f"{finding['check']}: {finding['message']}" for finding in findings if finding["level"] == "error"]
    checks = [Check("audit of the data", not errors, "; ".join(errors) or "no errors")]
    health = summary["health"]
    checks.append(Check("signs of collapse", not health, "; ".join(health) or "none"))
    if best := summary["best_baseline"]:
        minus = summary["model_minus"][best][metric]
        text = f"{summary['rankers'][MODEL][metric][0]:.4f}, {best} {summary['rankers'][best][metric][0]:.4f}: "
        checks.append(Check("best baseline", verdict(minus) != WORSE, text + with_interval(minus, "+.4f")))
    return checks


def limit_checks(
    candidate: Mapping[str, float], champion: Mapping[str, float] | None, growth: float, max_p99_ms: float | None
) -> list[Check]:
    """Check size and time of an answer, of bundles measured on this machine: `size_mb`, `p50_ms` and `p99_ms`."""
    checks = []
    for key, name, unit in (("size_mb", "size", "MB"), ("p50_ms", "median time of an answer", "ms")):
        text = f"{candidate[key]:,.2f} {unit}"
        if champion is not None:
            text += f", the champion {champion[key]:,.2f} {unit}; {growth:g} times or {SLACK:g} {unit} more is allowed"
        most = math.inf if champion is None else max(growth * champion[key], champion[key] + SLACK)
        checks.append(Check(name, candidate[key] <= most, text))
    if max_p99_ms is not None:
        text = f"{candidate['p99_ms']:,.2f} ms, up to {max_p99_ms:g} ms is allowed"
        checks.append(Check("99th percentile of an answer", candidate["p99_ms"] <= max_p99_ms, text))
    return checks


def _name(row: Row) -> str:
    named = slice_name({"by": row.by, "group": row.group}) if row.by == "weighted" else f"{row.by} {row.group}"
    return named if row.group else f"{_words(row)} of all queries"


def _words(row: Row) -> str:
    return row.by.replace("_at_", "@")
