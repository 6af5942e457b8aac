"""Removal of rows that cannot or may not be used, counted by reason."""

from collections import Counter
from collections.abc import Collection, Iterable

import polars as pl

from twotower.core.schema import (
    CONSENT,
    EVENT_TYPE,
    ITEM_ID,
    NO_TIMESTAMP,
    ODD_CONSENT,
    SESSION_ID,
    SPLIT,
    TIMESTAMP,
    USER_ID,
)
from twotower.data.preparation.losses import Losses
from twotower.data.preparation.privacy import consent_understood, not_erased, with_consent

ERASED = "erased at the user's request"  # reason for which a row is dropped
TIMESTAMP_TEXT = "timestamp_text"  # the timestamps as they came, where rows have that column


def drop_unusable(
    events: pl.DataFrame,
    required: Iterable[str],
    erase: Collection[str],
    until: int | None,
    dropped: Counter[str],
    losses: Losses | None = None,
) -> pl.DataFrame:
    """Remove rows of erased users, without consent, with nulls, with negative or too late timestamps, in this order.

    Args:
        events: [E] with whole timestamps; null where none could be read.
        required: columns in which a row must have a value.
        erase: ids of users, as text, whose events are removed.
        until: microseconds; events at that time or later are removed.
        dropped: counts of removed rows by reason, to which these are added; a row counts for its first reason alone.
        losses: where given, the removed rows are added to it, too.

    Returns:
        The other rows in their order.
    """
    conditions: dict[str, pl.Expr] = {}
    if erase:
        conditions[ERASED] = not_erased(erase)
    if CONSENT in events.columns:
        conditions[ODD_CONSENT] = consent_understood()
        conditions["no consent"] = with_consent()
    for name in (ITEM_ID, SESSION_ID, USER_ID, EVENT_TYPE, SPLIT):
        if name in required:
            conditions[f"no {name}"] = pl.col(name).is_not_null()
    conditions[NO_TIMESTAMP] = pl.col(TIMESTAMP).is_not_null()
    conditions["negative timestamp"] = pl.col(TIMESTAMP) >= 0
    if until is not None:
        conditions["at or after preparation.until"] = pl.col(TIMESTAMP) < until
    for reason, condition in conditions.items():
        holds = events.select(condition).to_series()
        if not holds.all():  # mostly it holds for all rows, and nothing need be copied
            dropped[reason] += len(holds) - int(holds.sum())
            if losses:
                sample = CONSENT if reason == ODD_CONSENT else TIMESTAMP_TEXT if "timestamp" in reason else None
                losses.add_lost(reason, events.filter(~holds), sample)
            events = events.filter(holds)
    return events
