"""Event inputs that need no declaration: gap, hour and weekday of an event, as codes from 1; 0 means unknown.

Preparation and serving call the same functions. Shapes: E events.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest

EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME = "event_type", "gap", "hour", "weekday", "time"
AT_ONCE = 0  # time of a query that comes at its newest event, in place of seconds
ANY_TYPE = 0  # code of the objective "an event of any type"; that of event type t is t + 1
GAP_CODES = 64  # the last code holds all gaps of more than about 60 years
SIZES = {GAP: GAP_CODES, HOUR: 25, WEEKDAY: 8}  # codes 0 .. size - 1
TIME_SIZE = 10**11  # the seconds from 1970 to 5138
HOUR_MS = 3_600_000
MS_PER_DAY = 24 * HOUR_MS


def gap_codes(timestamp: Array, first: Array) -> Array:
    """Return [E] uint8 buckets of the time since the previous event: 1 + floor(2 log2(1 + seconds)).

    The gap of an event is the dwell time of the item before it, given at the time when it becomes known.

    Args:
        timestamp: [E] milliseconds, session after session.
        first: [E] True for the first event of a session: its gap is unknown (0).

    >>> gap_codes(np.array([0, 1000, 8000]), np.array([True, False, False]))
    array([0, 3, 7], dtype=uint8)
    """
    seconds = np.maximum(np.diff(timestamp, prepend=timestamp[:1]), 0) / 1000
    codes = 1 + np.floor(2 * np.log2(1 + seconds))
    return np.where(first, 0, np.minimum(codes, GAP_CODES - 1)).astype(np.uint8)


def hour_codes(timestamp: Array, zone: str) -> Array:
    """Return [E] uint8: 1 + the local hour of the day in `zone`, from timestamps [E] in milliseconds."""
    return (1 + local_hours(timestamp, zone) % 24).astype(np.uint8)


def weekday_codes(timestamp: Array, zone: str) -> Array:
    """Return [E] uint8: 1 for Monday to 7 for Sunday in `zone`, from timestamps [E] in milliseconds."""
    return (1 + (local_hours(timestamp, zone) // 24 + 3) % 7).astype(np.uint8)  # 1970-01-01 was a Thursday


def time_codes(timestamp: Array) -> Array:
    """Return [E] whole seconds since 1970 from timestamps [E] in milliseconds: the input `time`.

    The user tower takes differences of it instead of embedding it. It has no file in a prepared directory.
    """
    return timestamp // 1000


def local_hours(timestamp: Array, zone: str) -> Array:
    """Return [E] hours since 1970 in the local time of `zone`, from timestamps [E] in milliseconds."""
    quarters = timestamp // (HOUR_MS // 4)  # offsets of zones are whole quarters of an hour: one look-up for each
    if zone == "UTC" or len(quarters) == 0:  # works without a time zone database, too
        return quarters // 4
    distinct, inverse = np.unique(quarters, return_inverse=True)
    local = ZoneInfo(zone)
    offsets = [datetime.fromtimestamp(int(q) * 900, UTC).astimezone(local).utcoffset() for q in distinct]
    minutes = np.array([o.total_seconds() / 60 if o else 0 for o in offsets], dtype=np.int64)
    return ((distinct * 15 + minutes) // 60)[inverse]


def check_zone(zone: str) -> None:
    """Raise UserError unless `zone` is UTC or in the time zone database."""
    if zone == "UTC":
        return
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        hint = nearest(zone, available_timezones()) or "."
        raise UserError(f"preparation.time_zone={zone}: no such zone{hint} Expected e.g. Europe/Berlin") from None
