"""Checks of what preparation counted: numbers that a shop's log rarely has unless something is wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.audit.findings import Finding, error, warning
from twotower.audit.measure import Measures
from twotower.core.event_codes import WEEKDAY
from twotower.core.schema import DUPLICATE_ROW

Statistics = Mapping[str, Any]
BOT_EVENTS = 1000
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def check_rows(statistics: Statistics) -> Iterator[Finding]:
    """Targets that no model of the catalogue can name, repeated rows, and items that contradict themselves."""
    targets, rows = statistics["targets_outside_catalogue"], statistics["rows"]
    outside = targets["outside"] / max(1, targets["test_events"])
    if outside > 0.05:
        message = (
            f"{outside:.1%} of the test's {targets['test_events']:,} events have an item that the catalogue lacks, and "
            "were left out; expected at most 5% (over 30% block). Are the item ids of all files of one kind? Else "
            "use a newer log, or a shorter test"
        )
        level = error if outside > 0.3 else warning
        yield level("targets_outside_catalogue", message, share=outside, **targets)
    repeated = rows["dropped"].get(DUPLICATE_ROW, 0)
    if repeated > 0.01 * rows["read"]:
        message = (
            f"{repeated:,} of {rows['read']:,} rows repeat another in every column and were left out; expected at most "
            "1%. Is something logged or exported twice?"
        )
        yield warning("repeated_rows", message, rows=repeated)
    for feature, items in statistics["contradictory_items"].items():
        if items:
            message = (
                f"{items:,} items have several values of '{feature}' at one time, of which one was taken; expected one "
                "each. Give the items' table one row an item, or a timestamp"
            )
            yield warning("contradictory_items", message, feature=feature, items=items)


def check_sessions(statistics: Statistics) -> Iterator[Finding]:
    """Bots, visits cut in two, and sessions that several users share."""
    lengths = np.array([[int(n), count] for n, count in statistics["session_lengths"].items()]).reshape(-1, 2)
    sessions, events = int(lengths[:, 1].sum()), int(lengths.prod(axis=1).sum())
    long = lengths[lengths[:, 0] > BOT_EVENTS]
    if len(long):
        number, share = int(long[:, 1].sum()), float(long.prod(axis=1).sum() / events)
        message = (
            f"{number:,} sessions have over {BOT_EVENTS:,} events (the longest {long[:, 0].max():,}) and hold "
            f"{share:.1%} of all events; expected none, for people rarely do that. Remove bots from the log, or see "
            "whether a session id lives for too long"
        )
        yield warning("bots", message, sessions=number, share=share)
    cuts = statistics["cuts"]
    if cuts["cut"] >= 100 and cuts["within_twice"] > cuts["cut"] / 3:
        message = (
            f"of {cuts['cut']:,} pauses that end a session, {cuts['within_twice'] / cuts['cut']:.0%} are shorter than "
            f"twice the gap of {cuts['gap_minutes']:g} minutes; expected at most a third, else one visit becomes "
            "several. Try a larger preparation.session_gap_minutes"
        )
        yield warning("sessions_cut", message, **cuts)
    several = statistics["sessions_of_several_users"]
    if several > 0.001 * sessions:
        message = (
            f"{several:,} of {sessions:,} sessions have events of several users; expected at most 0.1%. Are session "
            "ids used again, or unique only within a day or a site?"
        )
        yield warning("session_of_several_users", message, sessions=several)


def check_coverage(measures: Measures, statistics: Statistics) -> Iterator[Finding]:
    """What the test asks and the training does not show, and too few questions."""
    for name, n in statistics["types"].items():
        if n["train"] == 0 and n["validation"] + n["test"] > 0:
            message = (
                f"of {n['validation'] + n['test']:,} events of the type '{name}' none is for training; expected some. "
                "Is it newer than the others? Give a newer or longer log, or another split"
            )
            yield warning("never_trained", message, type=name, **n)
    if WEEKDAY in measures.codes:
        learnt, test = measures.codes[WEEKDAY].T
        days = [day for day, a, b in zip(WEEKDAYS, learnt[1:], test[1:], strict=True) if b and not a]
        if days:
            message = (
                f"the test has events of a {' and a '.join(days)}, the events to learn from have none; expected whole "
                "weeks. Give a longer log, or leave the input 'weekday' out of model.inputs"
            )
            yield warning("never_trained", message, weekdays=days)
    if measures.queries < 1000:
        message = (
            f"the test has {measures.queries:,} events with a history; expected 1,000 or more, for with so few chance "
            f"moves a recall by up to {measures.queries**-0.5 if measures.queries else 1:.0%} either way. Give more "
            "data, or a longer test"
        )
        yield warning("few_queries", message, queries=measures.queries)


def check_clocks(measures: Measures, statistics: Statistics) -> Iterator[Finding]:
    """Units, dates and time zones that are not what they seem; for timestamps that are times."""
    events, unit, units = statistics["rows"]["kept"], statistics["timestamp_unit"], statistics["timestamp_units"]
    others = {name: units[name] for name in ("s", "ms", "us", "ns") if name != unit and units.get(name)}
    if sum(others.values()) > 0.001 * sum(units.values()):
        found = ", ".join(f"{n:,} look like {name}" for name, n in others.items())
        message = (
            f"the timestamps are taken for {unit}, but {found}; expected one unit (0.1% may differ). Set "
            "data.timestamp_unit, or bring the files to one unit"
        )
        yield error("timestamp_unit", message, unit=unit, others=others)
    if beyond := measures.early + measures.future:
        message = (
            f"of {events:,} events {measures.early:,} are before 1990 and {measures.future:,} in the future; expected "
            "none (over 1% block). Is data.timestamp_unit right, or does a 0 stand for a missing time?"
        )
        level = error if beyond > 0.01 * events else warning
        yield level("timestamp_range", message, early=measures.early, future=measures.future)
    pauses = statistics["whole_hour_pauses"]
    chance = pauses["near"] * 3 / 58  # -1, 0 and 1 second from the hour against 2 to 30 on both sides
    if pauses["whole"] >= 50 and pauses["whole"] > 5 * chance and measures.whole_minutes < 0.5 * events:
        message = (
            f"{pauses['whole']:,} pauses of a user or session are whole hours to the second; expected about "
            f"{chance:,.0f} by chance. Does one source log local time and another UTC? Bring all to UTC"
        )
        yield warning("time_zone", message, **pauses)
    yield from _check_rhythm(np.array(statistics["hours"], dtype=np.int64))
    yield from _check_days(statistics["days"])


def _check_rhythm(hours: npt.NDArray[np.int64]) -> Iterator[Finding]:
    """A strong daily rhythm whose night falls into the day."""
    quiet = np.convolve(np.concatenate([hours, hours[:5]]), np.ones(6), "valid")
    start, share = int(quiet.argmin()), float(quiet.min() / max(1, hours.sum()))
    if hours.sum() >= 10_000 and share < 0.1 and 9 <= (start + 3) % 24 < 22:
        message = (
            f"the six quietest hours of the day begin at {start}:00 and hold {share:.1%} of the events; expected them "
            "at night. Set preparation.time_zone to the shop's own, such as Europe/Berlin"
        )
        yield warning("time_zone", message, quiet_from=start, share=share)


def _check_days(days: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Days in the middle of the log without an event, where their weekday has usually at least 20."""
    names = np.array(sorted(days), dtype="datetime64[D]")
    if len(names) < 3:
        return
    number = (names - names[0]).astype(np.int64)
    events = np.full((number[-1] // 7 + 1) * 7, np.nan)  # [weeks * 7], after the last day not known
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
            f"{len(empty):,} days from {first} to {last} have no event, though their weekday usually has some; "
            "expected none. Is a file missing?"
        )
        yield warning("days_without_events", message, days=len(empty), first=str(first), last=str(last))
