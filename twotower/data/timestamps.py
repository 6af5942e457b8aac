"""Timestamps of any type and unit as whole numbers: microseconds since 1970, or ordinals."""

from collections import Counter
from datetime import UTC, datetime

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import ORDINAL

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DATE = "date"
# Seconds since 1970. Numbers outside this range (1973 to 5138) in every unit are ordinals.
EARLIEST, LATEST = 10**8, 10**11
NUMBER_UNITS = (ORDINAL, *PER_SECOND, "beyond")  # what a number looks like, in rising order
ISO_8601 = (  # with "T" in place of a space; without a zone a time is UTC
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)


def count_units(column: pl.Series) -> Counter[str]:
    """Count the values by the unit that they look like: NUMBER_UNITS for numbers (or text of numbers), else DATE."""
    if column.dtype in (pl.Date, pl.Datetime):
        return Counter({DATE: len(column) - column.null_count()})
    _require_numbers_or_text(column)
    text = column.dtype == pl.String
    if column.dtype.is_integer():
        column = column.cast(pl.Int64, strict=False)
    numbers = (column.str.strip_chars() if text else column).cast(pl.Float64, strict=False).fill_nan(None)
    edges = [EARLIEST * per for per in PER_SECOND.values()] + [LATEST * PER_SECOND["ns"]]
    below = [int((numbers < edge).sum()) for edge in edges] + [len(numbers) - numbers.null_count()]
    units = Counter({unit: n - m for unit, n, m in zip(NUMBER_UNITS, below, [0, *below], strict=False)})
    if text and numbers.null_count() > column.null_count():
        dates = _dates(column)
        units[DATE] = len(dates) - dates.null_count()
    return +units


def choose_unit(units: Counter[str], setting: str) -> str:
    """Return DATE where most values are dates, else `setting`, or for "auto" the unit of the median.

    Args:
        units: counts of all rows, see count_units.
        setting: s, ms, us, ns, ordinal, or auto.
    """
    check_unit(setting)
    numbers = sum(units[unit] for unit in NUMBER_UNITS)
    if units[DATE] > numbers:
        return DATE
    if setting != "auto":
        return setting
    seen = 0
    for unit in NUMBER_UNITS:
        seen += units[unit]
        if 2 * seen > numbers:
            return unit if unit in PER_SECOND else ORDINAL
    return ORDINAL


def check_unit(unit: str) -> None:
    """Raise UserError for a unit that does not exist."""
    if unit not in (*PER_SECOND, ORDINAL, "auto"):
        raise UserError(f"data.timestamp_unit={unit}; expected auto, {', '.join(PER_SECOND)} or {ORDINAL}")


def whole_timestamps(column: pl.Series, unit: str) -> pl.Series:
    """Convert timestamps [E] of any type to Int64 microseconds since 1970, or to ordinals.

    A value that is not of the unit becomes null, as does a time after the year 5138.

    Args:
        column: the timestamps.
        unit: as `choose_unit` returned it.

    Raises:
        UserError: a column of another type, or fractional ordinals.
    """
    if unit == DATE:
        if column.dtype == pl.String:
            column = _dates(column)
        elif column.dtype not in (pl.Date, pl.Datetime):
            return pl.repeat(None, len(column), dtype=pl.Int64, eager=True).alias(column.name)
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    _require_numbers_or_text(column)
    if column.dtype == pl.String:  # whole numbers keep all their digits
        text = column.str.strip_chars()
        whole = _microseconds(text.cast(pl.Int64, strict=False), unit)
        return whole.fill_null(_microseconds(text.cast(pl.Float64, strict=False).fill_nan(None), unit))
    if column.dtype.is_integer() or column.dtype == pl.Null:
        return _microseconds(column.cast(pl.Int64, strict=False), unit)
    return _microseconds(column.cast(pl.Float64).fill_nan(None), unit)


def parse_until(text: str, unit: str) -> int:
    """Convert the setting preparation.until, a date or an ISO 8601 time, to microseconds since 1970.

    Raises UserError for another text, or where the timestamps are ordinals.
    """
    if unit == ORDINAL:
        raise UserError("preparation.until: the timestamps have no unit, so no date is before or after them")
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        raise UserError(f"preparation.until={text}; expected 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6)


def _require_numbers_or_text(column: pl.Series) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise UserError(f"the timestamps are of type {column.dtype}; expected dates with times, or numbers")


def _dates(text: pl.Series) -> pl.Series:
    """Parse text as UTC datetimes; null where it is no date."""
    text = text.str.strip_chars().str.strip_suffix(" UTC").str.replace(" ", "T", literal=True)
    times = pl.repeat(None, len(text), dtype=pl.Datetime("us", "UTC"), eager=True).alias(text.name)
    for form in ISO_8601:
        if times.null_count() > text.null_count():
            times = times.fill_null(text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False))
    return times


def _microseconds(numbers: pl.Series, unit: str) -> pl.Series:
    """Convert numbers of a unit to Int64 microseconds; ordinals keep their values."""
    if unit == ORDINAL:
        fractions = numbers.filter(numbers.round() != numbers)
        if len(fractions):
            raise UserError(
                f"the timestamps are fractions such as {fractions[0]} and no times of a known unit; "
                "give data.timestamp_unit=s (or ms, us, ns), or number the events"
            )
        return numbers.cast(pl.Int64, strict=False)
    if unit == "ns":
        return (numbers // 1000).cast(pl.Int64, strict=False)
    factor = PER_SECOND["us"] // PER_SECOND[unit]
    scaled = numbers.clip(lower_bound=-1) * factor  # negative times are dropped later, but must not overflow here
    whole = scaled if numbers.dtype.is_integer() else scaled.round().cast(pl.Int64, strict=False)
    in_range = numbers < LATEST * PER_SECOND[unit]
    return whole if in_range.all() else whole.set(~in_range.fill_null(False), None)
