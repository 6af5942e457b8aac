"""Timestamps of any type and unit as whole numbers."""

import datetime as dt
from collections import Counter

import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.timestamps import choose_unit, count_units, whole_timestamps

MICRO = 1_700_000_000_123_000  # 2023-11-14T22:13:20.123Z
TIME = dt.datetime(2023, 11, 14, 22, 13, 20, 123_000)
ZONE = dt.timezone(dt.timedelta(hours=5, minutes=30))


def read(column: pl.Series, given: str = "auto") -> tuple[pl.Series, str]:
    """Both steps: find the unit, then read."""
    unit = choose_unit(count_units(column), given)
    return whole_timestamps(column, unit), unit


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_700_000_000_123], "ms"),
        ([MICRO], "us"),
        ([MICRO * 1000 + 999], "ns"),
        ([1_700_000_000.123], "s"),
        ([1_700_000_000_123.0], "ms"),
        (["1700000000.123"], "s"),
        (["1700000000123"], "ms"),
        ([" 1.700000000123e12 "], "ms"),
        ([TIME], "date"),
        ([TIME.replace(tzinfo=dt.UTC)], "date"),
        ([(TIME.replace(tzinfo=dt.UTC)).astimezone(ZONE)], "date"),
        (["2023-11-14T22:13:20.123Z"], "date"),
        (["2023-11-14 22:13:20.123"], "date"),
        (["2023-11-14 22:13:20.123 UTC"], "date"),
        (["2023-11-15T03:43:20.123+05:30"], "date"),
        (["2023-11-15T03:43:20.123000+0530"], "date"),
    ],
)
def test_one_moment_in_many_forms(values: list[object], unit: str) -> None:
    whole, found = read(pl.Series(values), "auto")
    assert (whole.to_list(), found, whole.dtype) == ([MICRO], unit, pl.Int64)


@pytest.mark.parametrize("dtype", [pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("ns", "Asia/Tokyo")])
def test_datetime_types(dtype: pl.DataType) -> None:
    assert read(pl.Series([TIME]).cast(dtype), "auto")[0].to_list() == [MICRO]


def test_dates_and_decimals() -> None:
    day = 1_699_920_000_000_000  # 2023-11-14T00:00Z
    for column in (pl.Series([TIME.date()]), pl.Series(["2023-11-14"]), pl.Series(["2023-11-14T00:00"])):
        assert read(column, "auto")[0].to_list() == [day]
    seconds = pl.Series(["1700000000.123"]).cast(pl.Decimal(18, 3))
    assert read(seconds, "auto")[0].to_list() == [MICRO]


def test_seconds_with_a_fraction_are_exact() -> None:
    """Although most of them are no binary number."""
    micro = [123_456_789_000_000 + 1000 * i for i in range(1000)]
    assert read(pl.Series([m / 1e6 for m in micro]), "auto")[0].to_list() == micro
    assert read(pl.Series([f"{m / 1e6:.3f}" for m in micro]), "auto")[0].to_list() == micro


def test_iso_forms_may_be_mixed_and_garbage_is_null() -> None:
    text = pl.Series(["soon", "2023-11-14T22:13:20.123Z", None, "2023-11-14 22:13:20", "2023-11-14", "01/02/2023"])
    whole, _ = read(text, "auto")
    assert whole.to_list() == [None, MICRO, None, MICRO - 123_000, 1_699_920_000_000_000, None]


def test_the_reading_of_more_rows_wins() -> None:
    whole, unit = read(pl.Series(["7", "soon", "9"]), "auto")
    assert (whole.to_list(), unit) == ([7, None, 9], "ordinal")
    whole, _ = read(pl.Series(["2023", "2023-11-14", "2023-11-14"]), "auto")
    assert whole.null_count() == 1


def test_ordinals_stay_as_they_are() -> None:
    for values in ([3, 1, 2], [3.0, 1.0, 2.0], ["3", "1", "2"]):
        whole, unit = read(pl.Series(values), "auto")
        assert (whole.to_list(), unit) == ([3, 1, 2], "ordinal")
    assert read(pl.Series([1_700_000_000]), "ordinal")[0].to_list() == [1_700_000_000]
    assert read(pl.Series([5]), "s")[0].to_list() == [5_000_000]


def test_what_is_no_time_is_null_and_nothing_overflows() -> None:
    values = [1_700_000_000, 10**12, 2**62, -(2**62), None]
    assert read(pl.Series(values), "s")[0].to_list() == [
        1_700_000_000_000_000, None, None, -1_000_000, None,
    ]  # fmt: skip
    floats = [1.7e9, float("nan"), float("inf"), -float("inf"), 1e300]
    assert read(pl.Series(floats), "s")[0].to_list()[1:] == [None, None, -1_000_000, None]
    assert read(pl.Series([5, 2**64 - 1], dtype=pl.UInt64), "auto")[0].to_list() == [5, None]
    assert read(pl.Series([None, None]), "auto")[0].to_list() == [None, None]


@pytest.mark.parametrize(
    ("column", "unit", "message"),
    [
        (pl.Series([0.25, 0.5]), "auto", "fractions such as 0.25"),
        (pl.Series([1]), "seconds", "data.timestamp_unit=seconds; expected auto, s, ms, us, ns or ordinal"),
        (pl.Series([True]), "auto", "of type Boolean"),
        (pl.Series([dt.time(1)]), "auto", "of type Time"),
        (pl.Series([dt.timedelta(1)]), "auto", "of type Duration"),
    ],
)
def test_unusable_timestamps(column: pl.Series, unit: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(column, unit)


def test_a_unit_is_told_by_the_median_of_all_chunks() -> None:
    units = count_units(pl.Series([1_700_000_000] * 3)) + count_units(pl.Series([1_700_000_000_000] * 4))
    assert units == {"s": 3, "ms": 4}
    assert choose_unit(units, "auto") == "ms"
    assert choose_unit(units + Counter(s=2), "auto") == "s"
    assert choose_unit(units, "ns") == "ns"
    assert choose_unit(count_units(pl.Series(["2023-11-14", "7", "8"])), "auto") == "ordinal"
    assert count_units(pl.Series([-5.0, 7.0, None, 1e20])) == {"ordinal": 2, "beyond": 1}
