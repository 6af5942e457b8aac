"""Checks of what preparation dropped: how many rows, of which file, event type or other group; and the remedy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twotower.audit.findings import Finding, error, warning
from twotower.core.schema import DUPLICATE_ROW, NO_TIMESTAMP, ODD_CONSENT, SINGLE_EVENT

SHARE, MOST = 0.05, 0.5  # of the rows, from which on there is a warning, and an error
FEWEST = 10  # rows of a group: fewer are chance
GROUPS = 3  # named for each reason and column
REMEDIES = {  # by reason; rows that a setting leaves out on purpose are no loss
    NO_TIMESTAMP: "Write all timestamps in one form, ISO 8601 (2026-01-31T12:00:00Z) or numbers of one unit "
    "(data.timestamp_unit), or name another column: data.columns.timestamp=NAME",
    "negative timestamp": "Is data.timestamp_unit right?",
    ODD_CONSENT: "Write yes or no; or, if the column means something else: data.columns.consent=false keeps all rows",
    "no item_id": "Is it the right column: data.columns.item_id=NAME?",
    "no session_id": "Fill the column; data.columns.session_id=false forms sessions from users' events",
    "no user_id": "Fill the column, or form sessions of visits: data.columns.session_id=NAME",
    "no event_type": "Fill the column; data.columns.event_type=false makes all events one type",
    "no split": "Fill the column; split=temporal does without it",
    DUPLICATE_ROW: "Is something logged or exported twice, or do the timestamps lack the time of day?",
    SINGLE_EVENT: "preparation.session_gap_minutes=null makes a session of all events of a user, a larger number "
    "longer visits; data.columns.session_id=false forms sessions from users' events",
}


def check_losses(statistics: Mapping[str, Any]) -> Iterator[Finding]:
    """Find reasons for which many rows were left out: of all, or of a file, an event type or another group."""
    rows, losses = statistics["rows"], statistics["losses"]
    for reason, remedy in REMEDIES.items():
        samples = examples(losses["samples"].get(reason, ()))
        share = rows["dropped"].get(reason, 0) / max(1, rows["read"])
        if share > (MOST if reason == SINGLE_EVENT else SHARE):
            counts = f"{rows['dropped'][reason]:,} of {rows['read']:,} rows ({share:.1%})"
            yield _finding(reason, counts, share, samples, remedy)
        for column, groups in losses["groups"].items():
            lost = {value: (group["lost"].get(reason, 0), group["rows"]) for value, group in groups.items()}
            shares = {value: n / of for value, (n, of) in lost.items() if n >= FEWEST and n > SHARE * of}
            for value in sorted(shares, key=lambda value: -shares[value])[:GROUPS]:
                if share <= SHARE or shares[value] >= MOST > share:  # else it tells no more than that of all rows
                    counts = "{:,} of {:,} rows".format(*lost[value]) + f" ({shares[value]:.1%}) of {column} '{value}'"
                    yield _finding(reason, counts, shares[value], samples, remedy, column=column, value=value)


def check_unlisted(statistics: Mapping[str, Any]) -> Iterator[Finding]:
    """Find items of events that the table of items lacks, where they hold many events."""
    facts = statistics["unlisted_items"]
    if facts and facts["events"] > SHARE * facts["of"]:
        message = (
            f"{facts['items']:,} items of the events, as '{facts['example']}', have no row in data.items; they hold "
            f"{facts['events'] / facts['of']:.1%} of the events, expected at most {SHARE:.0%}. Complete the table; or "
            "preparation.only_known_items=true leaves them out of the catalogue"
        )
        yield warning("unlisted_items", message, **facts)


def examples(samples: Sequence[str]) -> str:
    """Values as a part of a message.

    >>> examples(["opt_in", "maybe"])
    " (such as 'opt_in', 'maybe')"
    """
    return f" (such as {', '.join(map(repr, samples))})" if samples else ""


def _finding(reason: str, counts: str, share: float, samples: str, remedy: str, **figures: Any) -> Finding:
    level = error if share >= MOST and reason != SINGLE_EVENT else warning
    message = f"{counts} were dropped: {reason}{samples}; expected at most {SHARE:.0%} ({MOST:.0%} is an error). "
    return level("rows_dropped", message + remedy, reason=reason, share=share, **figures)
