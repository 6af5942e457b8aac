"""Rows that can't be used, counted by reason; timestamps of any kind as whole numbers."""

import polars as pl

from twotower.errors import UserError
from twotower.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ORDINAL = "ordinal"
# Seconds since 1970: numbers that are no time in between (1973 to 5138) in any unit are ordinals.
EARLIEST, LATEST = 10**8, 10**11
ISO_8601 = (  # after "T" has taken the place of a space; without a zone a time is UTC
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)


def whole_timestamps(column: pl.Series, unit: str) -> tuple[pl.Series, str]:
    """Timestamps as Int64 microseconds since 1970, or ordinals (only their order means anything).

    Dates, datetimes, ISO 8601 strings and numbers are understood; a value that is not becomes null, as does
    a time after the year 5138.

    Args:
        column: [E] of any type.
        unit: what numbers count: s, ms, us, ns or ordinal; auto: the unit in which their median is a time
            after 1973, else ordinal.

    Returns:
        The column and the unit it came in.

    Raises:
        UserError: an unknown unit, a column of another type, or one without a single usable value.
    """
    if unit not in (*PER_SECOND, ORDINAL, "auto"):
        raise UserError(f"data.timestamp_unit={unit}; expected auto, {', '.join(PER_SECOND)} or {ORDINAL}")
    numbers = _read_text(column) if column.dtype == pl.String else column
    if numbers.dtype in (pl.Date, pl.Datetime):
        numbers, unit = numbers.cast(pl.Datetime("us")).cast(pl.Int64), "us"
    elif numbers.dtype.is_integer() or numbers.dtype == pl.Null:
        numbers = numbers.cast(pl.Int64, strict=False)
    elif numbers.dtype.is_numeric():
        numbers = numbers.cast(pl.Float64).fill_nan(None)
    else:
        raise UserError(f"the timestamps are of type {column.dtype}; expected dates with times, or numbers")
    unit = _guess(numbers) if unit == "auto" else unit
    whole = _microseconds(numbers, unit)
    if whole.null_count() == len(whole) and column.null_count() < len(column):
        raise UserError(
            f"no timestamp can be read, the first is '{column.drop_nulls()[0]}' (unit: {unit}); expected "
            "ISO 8601 (2025-01-31T12:00:00Z), or numbers in the unit that data.timestamp_unit says"
        )
    return whole, unit


def _read_text(text: pl.Series) -> pl.Series:
    """Text as numbers or as UTC datetimes, whichever more of its rows are."""
    text = text.str.strip_chars()
    numbers, whole = text.cast(pl.Float64, strict=False), text.cast(pl.Int64, strict=False)
    times = pl.repeat(None, len(text), dtype=pl.Datetime("us", "UTC"), eager=True)
    if numbers.null_count() > text.null_count():
        text = text.str.strip_suffix(" UTC").str.replace(" ", "T", literal=True)
        for form in ISO_8601:
            if times.null_count() > text.null_count():
                read = text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
                times = times.fill_null(read)
    if times.null_count() < numbers.null_count():
        return times
    return whole if whole.null_count() == numbers.null_count() else numbers


def _guess(numbers: pl.Series) -> str:
    median = numbers.median()
    seconds = median if isinstance(median, int | float) else 0
    return next((u for u, per in PER_SECOND.items() if EARLIEST * per <= seconds < LATEST * per), ORDINAL)


def _microseconds(numbers: pl.Series, unit: str) -> pl.Series:
    """Numbers of a unit as Int64 microseconds; ordinals stay as they are."""
    if unit == ORDINAL:
        fractions = numbers.filter(numbers.round() != numbers)
        if len(fractions):
            raise UserError(
                f"the timestamps are fractions such as {fractions[0]} and no times of a known unit; "
                "say data.timestamp_unit=s (or ms, us, ns), or number the events"
            )
        return numbers.cast(pl.Int64, strict=False)
    if unit == "ns":
        return (numbers // 1000).cast(pl.Int64, strict=False)
    factor = PER_SECOND["us"] // PER_SECOND[unit]
    inside = numbers.clip(lower_bound=-1) * factor  # all that is negative is dropped, but must not overflow
    whole = inside.round().cast(pl.Int64, strict=False)
    return pl.select(pl.when(numbers < LATEST * PER_SECOND[unit]).then(whole)).to_series()


def drop_unusable(events: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Remove rows with nulls, negative timestamps and exact repetitions, in this order.

    Returns:
        The kept rows in their order, and the number of rows dropped by reason; no reason without rows.
    """
    kept, dropped = events, {}
    for name in (ITEM_ID, SESSION_ID, USER_ID, EVENT_TYPE, SPLIT):
        if name in events.columns:
            before, kept = kept.height, kept.filter(pl.col(name).is_not_null())
            dropped[f"no {name}"] = before - kept.height
    before, kept = kept.height, kept.filter(pl.col(TIMESTAMP).is_not_null())
    dropped["no readable timestamp"] = before - kept.height
    before, kept = kept.height, kept.filter(pl.col(TIMESTAMP) >= 0)
    dropped["negative timestamp"] = before - kept.height
    before, kept = kept.height, kept.unique(maintain_order=True, keep="first")
    dropped["repetition of an identical row"] = before - kept.height
    return kept, {reason: count for reason, count in dropped.items() if count}
