"""Event inputs: what a model is told about an event beside its item, as codes from 1; 0 is "unknown".

Preparation and serving call the same functions. Shapes: E events.
"""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError, nearest

Array = npt.NDArray[Any]

EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME = "event_type", "gap", "hour", "weekday", "time"
GAP_CODES = 64  # the last one holds all pauses of more than about 60 years
SIZES = {GAP: GAP_CODES, HOUR: 25, WEEKDAY: 8}  # codes 0 .. size - 1
TIME_SIZE = 10**11  # the seconds from 1970 to 5138
HOUR_MS = 3_600_000
MS_PER_DAY = 24 * HOUR_MS


def gap_codes(timestamp: Array, first: Array) -> Array:
    """[E] uint8 buckets of the time since the event before, two for each doubling: 1 + floor(2 log2(1 + seconds)).

    So an event's gap is how long the item before it was looked at (its dwell), told when it is known.

    Args:
        timestamp: [E] milliseconds, session after session.
        first: [E] True for the first event of a session: its gap is unknown (0).
    """
    seconds = np.maximum(np.diff(timestamp, prepend=timestamp[:1]), 0) / 1000
    codes = 1 + np.floor(2 * np.log2(1 + seconds))
    return np.where(first, 0, np.minimum(codes, GAP_CODES - 1)).astype(np.uint8)


def hour_codes(timestamp: Array, zone: str) -> Array:
    """[E] uint8: 1 + the hour of the day, of timestamps [E] in milliseconds, where the clocks of `zone` are."""
    return (1 + local_hours(timestamp, zone) % 24).astype(np.uint8)


def weekday_codes(timestamp: Array, zone: str) -> Array:
    """[E] uint8: 1 for Monday to 7 for Sunday, of timestamps [E] in milliseconds, in `zone`."""
    return (1 + (local_hours(timestamp, zone) // 24 + 3) % 7).astype(np.uint8)  # 1970 began on a Thursday


def time_codes(timestamp: Array) -> Array:
    """[E] whole seconds since 1970, of timestamps [E] in milliseconds: the input `time`, of which differences count.

    It has no embedding, but is handed to the user tower as it is; and no file in a prepared directory, whose
    timestamps it is made from.
    """
    return timestamp // 1000


def local_hours(timestamp: Array, zone: str) -> Array:
    """[E] hours since 1970 by the clocks of `zone`, looked up once for each quarter of an hour that occurs."""
    quarters = timestamp // (HOUR_MS // 4)
    if zone == "UTC" or len(quarters) == 0:  # known everywhere, also where there is no data base of zones
        return quarters // 4
    distinct, inverse = np.unique(quarters, return_inverse=True)
    local = ZoneInfo(zone)
    offsets = [datetime.fromtimestamp(int(q) * 900, UTC).astimezone(local).utcoffset() for q in distinct]
    minutes = np.array([o.total_seconds() / 60 if o else 0 for o in offsets], dtype=np.int64)
    return ((distinct * 15 + minutes) // 60)[inverse]


def check_zone(zone: str) -> None:
    """Raise UserError for a time zone that does not exist."""
    if zone == "UTC":
        return
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        hint = nearest(zone, available_timezones())
        raise UserError(
            f"preparation.time_zone={zone}: there is no such zone{hint or '.'} Expected e.g. Europe/Berlin"
        ) from None
