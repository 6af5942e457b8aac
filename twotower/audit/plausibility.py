"""Checks of the preparation's counts: numbers that the log of a shop rarely has unless something is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.audit.findings import Finding, error, warning
from twotower.audit.measure import Measures
from twotower.core.event_codes import WEEKDAY
from twotower.core.schema import DUPLICATE_ROW, SINGLE_EVENT

Statistics = Mapping[str, Any]
BOT_EVENTS = 1000
DIFFERENCES = {"strip": "spaces around them", "case": "case", "zeros": "leading zeros"}
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def check_rows(statistics: Statistics) -> Iterator[Finding]:
    """Find targets outside the catalogue, and duplicate rows."""
    targets, rows = statistics["targets_outside_catalogue"], statistics["rows"]
    outside = targets["outside"] / max(1, targets["test_events"])
    if outside > 0.05:
        message = (
            f"{outside:.1%} of the test's {targets['test_events']:,} events have an item outside the catalogue, which "
            "no model can rank, and were left out; expected at most 5% (over 30% is an error). Do all files have the "
            "same kind of item ids? Else use a newer log, or a shorter test"
        )
        level = error if outside > 0.3 else warning
        yield level("targets_outside_catalogue", message, share=outside, **targets)
    duplicates = rows["dropped"].get(DUPLICATE_ROW, 0)
    if 0.01 * rows["read"] < duplicates <= 0.05 * rows["read"]:  # more are a finding of check_losses
        message = (
            f"{duplicates:,} of {rows['read']:,} rows duplicate another one in every column and were left out; "
            "expected at most 1%. Is something logged or exported twice?"
        )
        yield warning("repeated_rows", message, rows=duplicates)


def check_values(statistics: Statistics) -> Iterator[Finding]:
    """Find joins that match little, ids that are alike, contradictory features, and numbers that can't be read."""
    for match in statistics["matches"]:
        if match["warning"]:
            yield warning("few_matches", match["warning"])
    for column, steps in statistics["similar_ids"].items():
        for step, (groups, one, other) in steps.items():
            such_as = f", such as {one!r} and {other!r}," if one else ""  # of users there is no example
            message = (
                f"{groups:,} groups of {column} differ only by {DIFFERENCES[step]}{such_as} and count as different; "
                f"expected none. If they are the same: preparation.ids=[{step}]"
            )
            yield warning("similar_ids", message, column=column, step=step, groups=groups)
    for who in ("items", "users"):
        for feature, number in statistics[f"contradictory_{who}"].items():
            if number:
                message = (
                    f"{number:,} {who} have several values of '{feature}' at the same time, of which the smallest was "
                    f"taken; expected one each. Give the table one row for each of the {who}, or a timestamp"
                )
                yield warning(f"contradictory_{who}", message, feature=feature, **{who: number})
    for feature, facts in statistics["unreadable_numbers"].items():
        message = (
            f"{facts['values']:,} of {facts['of']:,} values of '{feature}' are no numbers, such as {facts['first']!r}, "
            f"and count as null; expected none. For numbers like 12,99 give the feature the setting decimal: ','; for "
            "words that mean null, preparation.null_words"
        )
        yield warning("unreadable_numbers", message, feature=feature, **facts)


def check_sessions(statistics: Statistics) -> Iterator[Finding]:
    """Find bots, visits that the session gap cuts, and sessions of several users."""
    lengths = np.array([[int(n), count] for n, count in statistics["session_lengths"].items()]).reshape(-1, 2)
    sessions, events = int(lengths[:, 1].sum()), int(lengths.prod(axis=1).sum())
    long = lengths[lengths[:, 0] > BOT_EVENTS]
    if len(long):
        number, share = int(long[:, 1].sum()), float(long.prod(axis=1).sum() / events)
        message = (
            f"{number:,} sessions have over {BOT_EVENTS:,} events (the longest {long[:, 0].max():,}) and hold "
            f"{share:.1%} of all events; expected none, as people rarely do that. Remove bots from the log, or check "
            "whether session ids are kept for too long"
        )
        yield warning("bots", message, sessions=number, share=share)
    cuts = statistics["cuts"]
    if cuts["cut"] >= 100 and cuts["within_twice"] > cuts["cut"] / 3:
        message = (
            f"of {cuts['cut']:,} pauses that end a session, {cuts['within_twice'] / cuts['cut']:.0%} are shorter than "
            f"twice the gap of {cuts['gap_minutes']:g} minutes; expected at most a third, as more suggest that one "
            "visit becomes several sessions. Try a larger preparation.session_gap_minutes"
        )
        yield warning("sessions_cut", message, **cuts)
    several = statistics["sessions_of_several_users"]
    if several > 0.001 * sessions:
        share = several / sessions
        message = (
            f"{several:,} of {sessions:,} sessions ({share:.1%}) have events of several users; expected at most 0.1% "
            "(50% is an error). Session ids that are used again, or numbered anew for each user as ga_session_id is, "
            "join what different people did. data.columns.session_id=false ignores the column, and forms sessions from "
            "users' events"
        )
        level = error if share >= 0.5 else warning
        yield level("session_of_several_users", message, sessions=several, share=share)


def check_coverage(measures: Measures, statistics: Statistics) -> Iterator[Finding]:
    """Find event types and weekdays that only the test has, and tests of few queries."""
    for name, n in statistics["types"].items():
        if n["train"] == 0 and n["validation"] + n["test"] > 0:
            message = (
                f"of {n['validation'] + n['test']:,} events of the type '{name}' none is for training, so the model "
                "can't learn it. Is the type newer than the others? Give a newer or longer log, or another split"
            )
            yield warning("never_trained", message, type=name, **n)
    if WEEKDAY in measures.codes:
        before_test, test = measures.codes[WEEKDAY].T
        days = [day for day, a, b in zip(WEEKDAYS, before_test[1:], test[1:], strict=True) if b and not a]
        if days:
            message = (
                f"the test has events on {' and '.join(days)}, the events before it have none; expected whole weeks, "
                "so that the input 'weekday' is known. Give a longer log, or leave it out of model.inputs"
            )
            yield warning("never_trained", message, weekdays=days)
    if measures.queries < 1000:
        error_of_recall = measures.queries**-0.5 if measures.queries else 1
        message = (
            f"the test has {measures.queries:,} events with a history; expected 1,000 or more, as with so few a recall "
            f"has a random error of up to {error_of_recall:.0%}. Give more data, or a longer test"
        )
        yield warning("few_queries", message, queries=measures.queries)


def check_clocks(measures: Measures, statistics: Statistics) -> Iterator[Finding]:
    """Find implausible units, dates and time zones; for timestamps that have a unit."""
    events, unit, units = statistics["rows"]["kept"], statistics["timestamp_unit"], statistics["timestamp_units"]
    others = {name: units[name] for name in ("s", "ms", "us", "ns") if name != unit and units.get(name)}
    if sum(others.values()) > 0.001 * sum(units.values()):
        found = ", ".join(f"{n:,} look like {name}" for name, n in others.items())
        message = (
            f"the unit of the timestamps is {unit}, but {found}; expected one unit, as others give wrong times (0.1% "
            "may differ). Set data.timestamp_unit, or convert the files to one unit"
        )
        yield error("timestamp_unit", message, unit=unit, others=others)
    if beyond := measures.early + measures.future:
        message = (
            f"of {events:,} events {measures.early:,} are before 1990 and {measures.future:,} in the future; expected "
            "none (over 1% is an error). Is data.timestamp_unit right, or does a 0 stand for a missing time?"
        )
        level = error if beyond > 0.01 * events else warning
        yield level("timestamp_range", message, early=measures.early, future=measures.future)
    pauses = statistics["whole_hour_pauses"]
    chance = pauses["near"] * 3 / 58  # -1, 0 and 1 second from the hour against 2 to 30 on both sides
    if pauses["whole"] >= 50 and pauses["whole"] > 5 * chance and measures.whole_minutes < 0.5 * events:
        message = (
            f"{pauses['whole']:,} pauses of a user or session are whole hours to the second; expected about "
            f"{chance:,.0f} by chance. Does one source log local time and another UTC? Convert all to UTC"
        )
        yield warning("time_zone", message, **pauses)
    if measures.whole_days > 0.9 * events:
        dropped = statistics["rows"]["dropped"]
        message = (
            f"{measures.whole_days:,} of {events:,} events are at midnight, so the timestamps are days without a time: "
            f"{dropped.get(DUPLICATE_ROW, 0):,} rows were left out as duplicates, though the same item may have been "
            f"bought twice that day; {dropped.get(SINGLE_EVENT, 0):,} were the only event of their day; and the order "
            "of a day's events is that of the file. Give timestamps with the time of day. Else: an event feature of a "
            "column in which such rows differ keeps them (preparation.features.events), and "
            "preparation.session_gap_minutes=null makes a session of all days of a user"
        )
        yield warning("days_without_time", message, events=measures.whole_days)
    else:
        yield from _check_hours(np.array(statistics["hours"], dtype=np.int64))
    yield from _check_days(statistics["days"])


def _check_hours(hours: npt.NDArray[np.int64]) -> Iterator[Finding]:
    """Find a strong daily rhythm whose quiet hours are in the daytime."""
    quiet = np.convolve(np.concatenate([hours, hours[:5]]), np.ones(6), "valid")
    start, share = int(quiet.argmin()), float(quiet.min() / max(1, hours.sum()))
    if hours.sum() >= 10_000 and share < 0.1 and 9 <= (start + 3) % 24 < 22:
        message = (
            f"the six quietest hours of the day begin at {start}:00 and hold {share:.1%} of the events; expected them "
            "at night. Set preparation.time_zone to that of the shop, such as Europe/Berlin"
        )
        yield warning("time_zone", message, quiet_from=start, share=share)


def _check_days(days: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Find days in the middle of the log without an event, on a weekday that usually has at least 20."""
    names = np.array(sorted(days), dtype="datetime64[D]")
    if len(names) < 3:
        return
    number = (names - names[0]).astype(np.int64)
    events = np.full((number[-1] // 7 + 1) * 7, np.nan)  # [weeks * 7], unknown after the last day
    events[: number[-1] + 1] = 0
    events[number] = [sum(days[str(name)].values()) for name in names]
    weeks = len(events) // 7
    typical = np.nanmedian(events.reshape(-1, 7), axis=0) if weeks > 1 else np.full(7, np.nanmedian(events))
    usual = np.tile(typical, weeks)
    before = np.nancumsum(events) / np.nansum(events)
    empty = np.flatnonzero((events == 0) & (usual >= 20) & (before >= 0.01) & (before <= 0.99))
    if len(empty):
        first, last = names[0] + empty[0], names[0] + empty[-1]
        message = (
            f"{len(empty):,} days from {first} to {last} have no event, though their weekday usually has at least 20; "
            "expected none. Is a file missing?"
        )
        yield warning("days_without_events", message, days=len(empty), first=str(first), last=str(last))
