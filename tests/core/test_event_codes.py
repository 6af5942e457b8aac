"""Codes of gap, hour and weekday against the standard library."""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.core.event_codes import GAP_CODES, check_zone, gap_codes, hour_codes, time_codes, weekday_codes


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"])
def test_hours_and_weekdays_are_those_of_local_clocks(zone: str) -> None:
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    moments = [begin + timedelta(minutes=97 * n) for n in range(6000)]  # over a year: summer time begins and ends
    times = np.array([int(m.timestamp()) * 1000 + 999 for m in moments])
    local = [m.astimezone(ZoneInfo(zone)) for m in moments]
    assert hour_codes(times, zone).tolist() == [1 + m.hour for m in local]
    assert weekday_codes(times, zone).tolist() == [m.isoweekday() for m in local]
    assert time_codes(times).tolist() == [int(m.timestamp()) for m in moments]


def test_gaps_are_logarithmic_buckets() -> None:
    seconds = np.array([0, 0.4, 1, 2, 59, 3600, 86_400, 3e9, 1e15])
    times = np.cumsum(np.concatenate([[7], seconds * 1000])).astype(np.int64)
    codes = gap_codes(times, np.arange(len(times)) == 0)
    expected = [min(GAP_CODES - 1, 1 + math.floor(2 * math.log2(1 + s))) for s in seconds.tolist()]
    assert codes.tolist() == [0, *expected]
    assert codes.dtype == np.uint8
    assert gap_codes(times[:0], np.zeros(0, dtype=bool)).tolist() == []


def test_a_zone_that_does_not_exist_is_refused() -> None:
    check_zone("UTC")
    check_zone("Asia/Tokyo")
    with pytest.raises(UserError, match=r"preparation\.time_zone=Europe/Berlni.*did you mean 'Europe/Berlin'"):
        check_zone("Europe/Berlni")
