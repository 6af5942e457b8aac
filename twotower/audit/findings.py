"""What an audit reports: the checks by name, and the form of a finding."""

from typing import Any, Literal, TypedDict

import numpy as np

CHECKS = {  # in the order of reports; what the data card calls them
    "training_after_split": "Training events later than the test",
    "session_in_two_parts": "Sessions in two parts of the split",
    "statistics_saw_test": "Statistics that saw the test",
    "target_in_context": "Target in its own history's context",
    "targets_outside_catalogue": "Targets outside the catalogue",
    "repeated_rows": "Repeated rows",
    "bots": "Sessions of thousands of events",
    "timestamp_unit": "Timestamps of several units",
    "timestamp_range": "Timestamps before 1990 or in the future",
    "time_zone": "Time zone",
    "sessions_cut": "Visits cut by the session gap",
    "session_of_several_users": "Sessions of several users",
    "contradictory_items": "Items with several values of a feature",
    "never_trained": "In the test, never in training",
    "days_without_events": "Days without events",
    "few_queries": "Few test queries",
}
ORDINAL = "ordinal"  # the timestamp_unit of numbers that are no times


class Finding(TypedDict):
    """One entry of audit.json."""

    check: str  # a key of CHECKS
    level: Literal["error", "warning"]
    message: str  # what was found, what was expected, what to do
    figures: dict[str, Any]


def error(check: str, message: str, **figures: Any) -> Finding:
    """A finding that blocks training."""
    return {"check": check, "level": "error", "message": message, "figures": figures}


def warning(check: str, message: str, **figures: Any) -> Finding:
    """A finding that is printed."""
    return {"check": check, "level": "warning", "message": message, "figures": figures}


def moment(timestamp: int, unit: str) -> str:
    """A timestamp in words: milliseconds as a UTC time, an ordinal as it is."""
    return str(timestamp) if unit == ORDINAL else f"{np.datetime64(timestamp, 'ms').astype('datetime64[s]')} UTC"
