"""Sessions: events that belong together, oldest first."""

import polars as pl

from twotower.data.clean import ORDINAL
from twotower.errors import UserError
from twotower.schema import SESSION_ID, TIMESTAMP, USER_ID

MINUTE = 60_000_000  # microseconds


def assign_sessions(events: pl.DataFrame, unit: str, gap_minutes: float | None) -> tuple[pl.DataFrame, str]:
    """Sort events into sessions numbered from 0 and say in words where the sessions came from.

    The session column decides where there is one; else a user's events are cut where more than
    `gap_minutes` pass between two of them (None: never). The sort is stable: events with equal
    timestamps keep the order in which they were read.

    Args:
        events: [E] with TIMESTAMP in microseconds, or ordinals.
        unit: `ordinal`, or any unit of time that the timestamps came in.
        gap_minutes: the longest pause within a session.

    Returns:
        The events with SESSION_ID replaced by a number [0, S), sorted by it and by time.

    Raises:
        UserError: neither a session nor a user column, or a gap that can't cut.
    """
    if SESSION_ID in events.columns:
        key, source = SESSION_ID, "the session column"
    elif USER_ID in events.columns:
        key, source = USER_ID, "all events of a user"
    else:
        raise UserError(
            "there is neither a session nor a user column; "
            "say which it is: data.columns.session_id=NAME or data.columns.user_id=NAME"
        )
    events = events.sort(key, TIMESTAMP, maintain_order=True)
    begins = pl.col(key) != pl.col(key).shift(1)
    if key == USER_ID and gap_minutes is not None:
        if not isinstance(gap_minutes, int | float) or not gap_minutes > 0:
            raise UserError(f"data.session_gap_minutes={gap_minutes}; expected a number above 0, or null")
        if unit == ORDINAL:
            raise UserError(
                "the timestamps have no unit, so a gap in minutes can't cut sessions; give "
                "data.timestamp_unit, a session column, or data.session_gap_minutes=null for a session a user"
            )
        source = f"users' events, cut by gaps of over {gap_minutes:g} minutes"
        begins |= pl.col(TIMESTAMP) - pl.col(TIMESTAMP).shift(1) > gap_minutes * MINUTE
    number = begins.fill_null(True).cum_sum().cast(pl.Int64) - 1
    return events.with_columns(number.alias(SESSION_ID)), source
