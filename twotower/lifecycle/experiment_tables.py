"""Experiments in words: rows of tables, the head first, and what follows from them."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from twotower.core.errors import UserError
from twotower.lifecycle.ab_test import MISMATCH, Difference, difference, sample_ratio
from twotower.lifecycle.ab_users import AbUsers
from twotower.lifecycle.off_policy import Estimate, OffPolicy
from twotower.lifecycle.power import days_needed, users_needed
from twotower.lifecycle.preference import Preference

FEW_EFFECTIVE = 500  # items of equal weight; of fewer the sums are skewed, and the intervals too narrow


class Said(NamedTuple):
    """A table and what to say below it."""

    rows: list[list[str]]
    lines: list[str]


def off_policy_table(result: OffPolicy, clip: float) -> Said:
    """Describe estimates of a new bundle."""
    rows = [["", "value of a list ± 95 %", "new - plain ± 95 %"]]
    rows += [["shown, with exploration", _interval(result.shown), ""], ["plain, without", _interval(result.plain), ""]]
    for name, value in result.new.items():
        rows.append([f"new, {name}", _interval(value), _interval(result.new_minus_plain[name], "+")])
    later = result.effects[-1]
    lines = [
        f"{result.requests:,} requests of {result.users:,} users; {result.matched:,} shown items are in the new lists, "
        f"worth {result.effective:,.0f} of equal weight; weights above {clip:g} are cut: {result.clipped:.1%} of them",
        f"an item at place {len(result.effects)} has {later:.2f} of the outcomes that it has at place 1",
    ]
    if result.support.high < 0.99:
        lines.append(
            f"warning: only {result.support.value:.0%} of the new lists' places have an item that the log could show. "
            "IPS counts the others as worth nothing, SNIPS as worth as much as the rest, DR as its model says"
        )
    if result.effective < FEW_EFFECTIVE:
        lines.append(
            "warning: few items of equal weight, so intervals are a little too narrow; log longer, or explore more"
        )
    dr = result.new_minus_plain["DR"]
    if dr.low > 0:
        verdict = "the new bundle is better: put it to an A/B test"
    elif dr.high < 0:
        verdict = "the new bundle is worse: keep the one that you have"
    else:
        verdict = "no difference can be told: log longer, or let an interleaved or A/B test decide"
    return Said(rows, [*lines, f"by DR, {verdict}"])


def ab_test_table(users: AbUsers, shares: Mapping[str, float], planned: int) -> Said:
    """Describe an A/B test; the first of the shares is the control."""
    control, *others = shares
    rows = [["", *shares, "difference", "relative", "± once", "± daily", "CUPED"]]
    if len(others) > 1:
        rows[0] = ["", "control", "treatment", *rows[0][-5:]]
    lines = [
        f"{name}: {count:,} users, {(users.bucket == name).sum():,} complete" for name, count in users.assigned.items()
    ]
    broken = sample_ratio(users.assigned, shares)
    verdicts = []
    for name in others:
        pair = np.flatnonzero(np.isin(users.bucket, [control, name]))[:planned]
        one, other = (pair[users.bucket[pair] == bucket] for bucket in (control, name))
        days = float(np.ptp(users.day[pair])) if len(pair) else 0.0
        for what, figure in (("conversion", users.conversion), ("value per user", users.value)):
            found = difference(figure[one], figure[other], planned, days, (users.before[one], users.before[other]))
            rows.append([f"{what}{f', {name}' if len(others) > 1 else ''}", *_difference_cells(found)])
            verdicts.append(f"{name}, {what}: {_verdict(found, len(pair) == planned)}")
    if users.in_several:
        lines.append(f"{users.in_several:,} users were in several buckets and are left out; is the user key stable?")
    if broken < MISMATCH:
        reason = "who is in which bucket, or who is logged, depends on the bucket. Mend that and start anew"
        return Said(
            rows, [*lines, f"error: the sizes of the buckets do not fit their shares (p = {broken:.1g}): {reason}"]
        )
    lines.append(f"the sizes of the buckets fit their shares (p = {broken:.2g})")
    legend = f"± once is for one look on a day fixed beforehand; ± daily for one each day, up to {planned:,} users"
    return Said(rows, [*lines, *verdicts, legend])


def _verdict(found: Difference, done: bool) -> str:
    if abs(found.difference) > found.daily:
        return f"{'better' if found.difference > 0 else 'worse'}; the test may end"
    return (
        "no difference is seen; the test ends as planned" if done else "open; go on until the planned users are there"
    )


def _difference_cells(found: Difference) -> list[str]:
    return [
        f"{found.control:.4g}",
        f"{found.treatment:.4g}",
        f"{found.difference:+.4g}",
        "" if math.isnan(found.relative) else f"{found.relative:+.1%}",
        f"{found.once:.4g}",
        f"{found.daily:.4g}",
        f"-{found.explained:.0%} variance" if found.explained >= 0.005 else "",
    ]


def preference_table(votes: Preference) -> Said:
    """Describe an interleaved test."""
    rows = [["first preferred", "second preferred", "even", "share of second ± 95 %", "p"]]
    interval = "" if math.isnan(votes.share) else f"{votes.share:.3f} ({votes.low:.3f} to {votes.high:.3f})"
    rows.append([f"{votes.first:,}", f"{votes.second:,}", f"{votes.even:,}", interval, f"{votes.p_value:.2g}"])
    verdict = "no preference can be told yet"
    if votes.p_value < 0.05:
        verdict = f"visitors prefer the {'second' if votes.second > votes.first else 'first'} ranking"
    return Said(rows, [f"{verdict}. The p-value is for one look, on a day fixed beforehand"])


def power_table(
    rate: float | None,
    mean: float | None,
    deviation: float | None,
    lift: float,
    share: float,
    explained: float,
    users_per_day: float | None,
) -> Said:
    """Say how many users and days a test takes, for a conversion rate or for a mean and deviation of revenue.

    Raises:
        UserError: neither of both, or both.
    """
    if (rate is None) == (mean is None) or (mean is None) != (deviation is None):
        raise UserError("expected either --rate, of conversions, or --mean and --deviation, of revenue per user")
    if rate is not None and not 0 < rate < 1:
        raise UserError(f"--rate is {rate:g}; expected a share between 0 and 1, such as 0.03")
    base = mean if rate is None else rate
    spread = deviation if rate is None else math.sqrt(rate * (1 - rate))
    assert base is not None and spread is not None
    rows = [["", "users of both buckets", *(["days"] if users_per_day is not None else [])]]
    for name, daily in (("one look, planned", False), ("a look each day", True)):
        users = users_needed(spread, base * lift, share, explained, daily)
        days = [] if users_per_day is None else [f"{days_needed(users, users_per_day):,}"]
        rows.append([name, f"{users:,}", *days])
    lines = [
        f"a difference of {base * lift:.4g} is then seen in four of five tests, at 95 %; whole weeks are better, and "
        "the hours of the last users' outcomes come on top",
        f"next: fix the number, start, and read with --planned-users {users}",
    ]
    return Said(rows, lines)


def _interval(estimate: Estimate, sign: str = "") -> str:
    digits = (
        max(0, 2 - math.floor(math.log10(abs(estimate.high - estimate.low)))) if estimate.high > estimate.low else 4
    )
    return f"{estimate.value:{sign}.{digits}f} ({estimate.low:{sign}.{digits}f} to {estimate.high:{sign}.{digits}f})"
