"""Sessions: events that belong together, oldest first."""

import polars as pl

from twotower.data.clean import ORDINAL, PER_MILLISECOND
from twotower.errors import UserError
from twotower.schema import SESSION_ID, TIMESTAMP, USER_ID


def assign_sessions(events: pl.DataFrame, unit: str, gap_minutes: float | None) -> tuple[pl.DataFrame, str]:
    """Sort events into sessions numbered from 0 and say in words where the sessions came from.

    The session column decides where there is one; else a user's events are cut where more than
    `gap_minutes` pass between two of them (None: never). The sort is stable: events with equal
    timestamps keep the order in which they were read.

    Returns:
        The events with SESSION_ID replaced by a number [0, S), sorted by it and by time.
    """
    if SESSION_ID in events.columns:
        keys, source = SESSION_ID, "the session column"
    elif USER_ID in events.columns:
        keys, source = USER_ID, "all events of a user"
    else:
        raise UserError(
            "there is neither a session nor a user column; "
            "say which it is: data.columns.session_id=NAME or data.columns.user_id=NAME"
        )
    events = events.sort(keys, TIMESTAMP, maintain_order=True)
    begins = pl.col(keys) != pl.col(keys).shift(1)
    if keys == USER_ID and gap_minutes is not None:
        if unit == ORDINAL:
            raise UserError(
                "the timestamps have no unit, so a gap in minutes can't cut sessions; give data.timestamp_unit, "
                "a session column, or data.session_gap_minutes=null for one session a user"
            )
        source = f"users' events, cut by gaps of over {gap_minutes:g} minutes"
        gap = gap_minutes * 60_000 * PER_MILLISECOND[unit]
        begins |= pl.col(TIMESTAMP) - pl.col(TIMESTAMP).shift(1) > gap
    number = begins.fill_null(True).cum_sum().cast(pl.Int64) - 1
    return events.with_columns(number.alias(SESSION_ID)), source
