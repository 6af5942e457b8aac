"""Rows that can't be used, counted by reason; timestamps of any kind as whole numbers."""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID, YES

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ORDINAL, DATE = "ordinal", "date"
# Seconds since 1970: numbers that are no time in between (1973 to 5138) in any unit are ordinals.
EARLIEST, LATEST = 10**8, 10**11
LOOKS = (ORDINAL, *PER_SECOND, "beyond")  # what a number looks like, in rising order
ISO_8601 = (  # after "T" has taken the place of a space; without a zone a time is UTC
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d",
)


def count_looks(column: pl.Series) -> Counter[str]:
    """How many values look like a time in which unit: LOOKS for numbers, also as text, and DATE for dates."""
    if column.dtype in (pl.Date, pl.Datetime):
        return Counter({DATE: len(column) - column.null_count()})
    _check_type(column)
    text = column.dtype == pl.String
    if column.dtype.is_integer():
        column = column.cast(pl.Int64, strict=False)
    numbers = (_trimmed(column) if text else column).cast(pl.Float64, strict=False)
    numbers = numbers.fill_nan(None)
    edges = [EARLIEST * per for per in PER_SECOND.values()] + [LATEST * PER_SECOND["ns"]]
    below = [int((numbers < edge).sum()) for edge in edges] + [len(numbers) - numbers.null_count()]
    looks = Counter({look: n - m for look, n, m in zip(LOOKS, below, [0, *below], strict=False)})
    if text and numbers.null_count() > column.null_count():
        dates = _dates(column)
        looks[DATE] = len(dates) - dates.null_count()
    return +looks


def choose_unit(looks: Counter[str], given: str) -> str:
    """What the timestamps count: DATE where most are dates, else as `given`, else what the median looks like.

    Args:
        looks: over all rows.
        given: s, ms, us, ns, ordinal, or auto.
    """
    check_unit(given)
    numbers = sum(looks[look] for look in LOOKS)
    if looks[DATE] > numbers or given != "auto":
        return DATE if looks[DATE] > numbers else given
    seen = 0
    for look in LOOKS:
        seen += looks[look]
        if 2 * seen > numbers:
            return look if look in PER_SECOND else ORDINAL
    return ORDINAL


def check_unit(unit: str) -> None:
    """Raise UserError for a unit that does not exist."""
    if unit not in (*PER_SECOND, ORDINAL, "auto"):
        raise UserError(f"data.timestamp_unit={unit}; expected auto, {', '.join(PER_SECOND)} or {ORDINAL}")


def whole_timestamps(column: pl.Series, unit: str) -> pl.Series:
    """Timestamps as Int64 microseconds since 1970, or ordinals (only their order means anything).

    A value that is not of the unit becomes null, as does a time after the year 5138.

    Args:
        column: [E] of any type.
        unit: what `choose_unit` said.

    Raises:
        UserError: a column of another type, or fractions that are to be ordinals.
    """
    if unit == DATE:
        if column.dtype == pl.String:
            column = _dates(column)
        elif column.dtype not in (pl.Date, pl.Datetime):
            return pl.repeat(None, len(column), dtype=pl.Int64, eager=True).alias(column.name)
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    _check_type(column)
    if column.dtype == pl.String:  # whole numbers keep all their digits
        text = _trimmed(column)
        whole = _microseconds(text.cast(pl.Int64, strict=False), unit)
        return whole.fill_null(_microseconds(text.cast(pl.Float64, strict=False).fill_nan(None), unit))
    if column.dtype.is_integer() or column.dtype == pl.Null:
        return _microseconds(column.cast(pl.Int64, strict=False), unit)
    return _microseconds(column.cast(pl.Float64).fill_nan(None), unit)


def _check_type(column: pl.Series) -> None:
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null)):
        raise UserError(f"the timestamps are of type {column.dtype}; expected dates with times, or numbers")


def _trimmed(text: pl.Series) -> pl.Series:
    return text.str.strip_chars()


def _dates(text: pl.Series) -> pl.Series:
    """Text as UTC datetimes; null where it is no date."""
    text = _trimmed(text).str.strip_suffix(" UTC").str.replace(" ", "T", literal=True)
    times = pl.repeat(None, len(text), dtype=pl.Datetime("us", "UTC"), eager=True).alias(text.name)
    for form in ISO_8601:
        if times.null_count() > text.null_count():
            times = times.fill_null(text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False))
    return times


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
    whole = inside if numbers.dtype.is_integer() else inside.round().cast(pl.Int64, strict=False)
    right = numbers < LATEST * PER_SECOND[unit]
    return whole if right.all() else whole.set(~right.fill_null(False), None)


def moment(text: str, unit: str) -> int:
    """A date or an ISO 8601 time as microseconds since 1970, for events whose timestamps count `unit`."""
    if unit == ORDINAL:
        raise UserError("preparation.until: the timestamps have no unit, so no date is before or after them")
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        raise UserError(f"preparation.until={text}; expected 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6)


def drop_unusable(
    events: pl.DataFrame,
    required: Iterable[str],
    erase: Collection[str],
    until: int | None,
    dropped: Counter[str],
) -> pl.DataFrame:
    """Remove rows of erased users, without consent, with nulls, negative and later timestamps, in this order.

    Args:
        events: [E] with whole timestamps; nulls where none could be read.
        required: columns that a row must have a value in.
        erase: users' ids, as text, whose events go.
        until: microseconds; events from then on go.
        dropped: rows removed are added here, by reason; each row by the first that holds.

    Returns:
        The kept rows in their order.
    """
    good = {"no readable timestamp": pl.col(TIMESTAMP).is_not_null(), "negative timestamp": pl.col(TIMESTAMP) >= 0}
    names = (ITEM_ID, SESSION_ID, USER_ID, EVENT_TYPE, SPLIT)
    good = {f"no {name}": pl.col(name).is_not_null() for name in names if name in required} | good
    if CONSENT in events.columns:
        given = pl.col(CONSENT).cast(pl.String).str.strip_chars().str.to_lowercase()
        good = {"no consent": given.is_in(YES).fill_null(False)} | good
    if erase:
        listed = pl.col(USER_ID).cast(pl.String).is_in(pl.Series(sorted(erase)).implode())
        good = {"erased at the user's request": ~listed.fill_null(False)} | good
    if until is not None:
        good["from preparation.until on"] = pl.col(TIMESTAMP) < until
    for reason, condition in good.items():
        holds = events.select(condition).to_series()
        if not holds.all():  # mostly nothing goes, and nothing need be copied
            dropped[reason] += len(holds) - int(holds.sum())
            events = events.filter(holds)
    return events
