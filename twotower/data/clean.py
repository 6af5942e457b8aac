"""Rows that can't be used, counted by reason; timestamps of any kind as whole numbers with a known unit."""

import polars as pl

from twotower.errors import UserError
from twotower.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID

# Integer timestamps of today lie between these powers of ten; below them they are ordinals without a unit.
UNITS = {"s": (10**8, 10**11), "ms": (10**11, 10**14), "us": (10**14, 10**17), "ns": (10**17, 10**20)}
PER_MILLISECOND = {"s": 1 / 1000, "ms": 1, "us": 1000, "ns": 1_000_000}
ORDINAL = "ordinal"


def whole_timestamps(column: pl.Series, unit: str) -> tuple[pl.Series, str]:
    """Timestamps as Int64 with their unit: s, ms, us, ns, or `ordinal` (only their order means anything).

    Dates, times, ISO 8601 strings and numbers are understood; what is not becomes null. `unit` is one of
    these, or `auto`: the unit in which most of the numbers are times between 1973 and 5138.
    """
    if unit not in (*UNITS, ORDINAL, "auto"):
        raise UserError(f"data.timestamp_unit={unit}; expected auto, {', '.join(UNITS)} or {ORDINAL}")
    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        if numbers.null_count() < len(column) or len(column) == 0:
            exact = column.cast(pl.Int64, strict=False)
            column = exact.fill_null(numbers.round().cast(pl.Int64, strict=False))
        else:
            times = column.str.to_datetime(time_unit="us", time_zone="UTC", strict=False, ambiguous="earliest")
            column = times
    if column.dtype.is_temporal():
        if column.dtype == pl.Time or column.dtype == pl.Duration:
            raise UserError(f"the timestamps are of type {column.dtype}; expected a date and time, or a number")
        return column.cast(pl.Datetime("us")).cast(pl.Int64), "us"
    if not column.dtype.is_numeric():
        raise UserError(f"the timestamps are of type {column.dtype}; expected a date and time, or a number")
    if column.dtype.is_float() and unit == "auto" and _guess(column) == "s":
        return (column * 1000).round().cast(pl.Int64, strict=False), "ms"  # seconds with a fraction
    column = column.cast(pl.Int64, strict=False)
    return column, _guess(column) if unit == "auto" else unit


def _guess(column: pl.Series) -> str:
    median = column.drop_nulls().median()
    size = float(median) if isinstance(median, (int, float)) else 0.0
    return next((unit for unit, (low, high) in UNITS.items() if low <= size < high), ORDINAL)


def drop_unusable(events: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Remove rows with nulls, negative timestamps and exact repetitions, in this order.

    Returns:
        The kept rows in their order, and the number of rows dropped by reason (reasons without rows left out).
    """
    dropped: dict[str, int] = {}

    def keep(events: pl.DataFrame, condition: pl.Expr, reason: str) -> pl.DataFrame:
        kept = events.filter(condition)
        if kept.height < events.height:
            dropped[reason] = events.height - kept.height
        return kept

    for name in (ITEM_ID, SESSION_ID, USER_ID, EVENT_TYPE, SPLIT):
        if name in events.columns:
            events = keep(events, pl.col(name).is_not_null(), f"no {name}")
    events = keep(events, pl.col(TIMESTAMP).is_not_null(), "no readable timestamp")
    events = keep(events, pl.col(TIMESTAMP) >= 0, "negative timestamp")
    distinct = events.unique(maintain_order=True, keep="first")
    if distinct.height < events.height:
        dropped["repetition of an identical row"] = events.height - distinct.height
    return distinct, dropped
