"""The names of the checks, and the form of a finding."""

from typing import Any, Literal, TypedDict

import numpy as np

from twotower.core.schema import ORDINAL

CHECKS = {  # check -> its title in the data card, in the order of reports
    "training_after_split": "Training events later than the test",
    "session_in_two_parts": "Sessions in two parts of the split",
    "statistics_saw_test": "Statistics that saw the test",
    "target_in_context": "Target in the context of its history",
    "targets_outside_catalogue": "Targets outside the catalogue",
    "rows_dropped": "Rows that were dropped",
    "repeated_rows": "Duplicate rows",
    "days_without_time": "Timestamps without the time of day",
    "bots": "Sessions of thousands of events",
    "timestamp_unit": "Timestamps of several units",
    "timestamp_range": "Timestamps before 1990 or in the future",
    "time_zone": "Time zone",
    "sessions_cut": "Visits cut by the session gap",
    "session_of_several_users": "Sessions of several users",
    "unlisted_items": "Items that the table of items lacks",
    "few_matches": "Tables and lists whose ids mostly match nothing",
    "similar_ids": "Ids that differ in little",
    "contradictory_items": "Items with several values of a feature",
    "contradictory_users": "Users with several values of a feature",
    "unreadable_numbers": "Numbers that can't be read",
    "never_trained": "In the test, never in training",
    "days_without_events": "Days without events",
    "few_queries": "Few test queries",
}


class Finding(TypedDict):
    """One entry of audit.json.

    >>> warning("bots", "3 sessions have over 1,000 events ...", sessions=3)["figures"]
    {'sessions': 3}
    """

    check: str  # a key of CHECKS
    level: Literal["error", "warning"]
    message: str  # what was found with figures, what was expected and why, what to do
    figures: dict[str, Any]


def error(check: str, message: str, **figures: Any) -> Finding:
    """Return a finding that blocks training."""
    return {"check": check, "level": "error", "message": message, "figures": figures}


def warning(check: str, message: str, **figures: Any) -> Finding:
    """Return a finding that is logged as a warning."""
    return {"check": check, "level": "warning", "message": message, "figures": figures}


def format_timestamp(timestamp: int, unit: str) -> str:
    """Return milliseconds as a UTC time, an ordinal as a number."""
    return str(timestamp) if unit == ORDINAL else f"{np.datetime64(timestamp, 'ms').astype('datetime64[s]')} UTC"
