"""REES46's monthly files."""

import datetime as dt
from pathlib import Path

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.rees46 import read

NAMES = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
OCTOBER = NAMES + (
    "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde-8bb3\n"
    "2019-10-01 00:00:05 UTC,cart,3900821,2053013552326770905,appliances.heater,aqua,33.20,554748717,9333dfbd-b87a\n"
    "2019-10-01 00:00:06 UTC,remove_from_cart,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde-8bb3\n"
    "2019-10-01 00:00:07 UTC,view,44600062,2103807459595387724,,shiseido,30.00,541312140,\n"
)
NOVEMBER = NAMES + (
    "2019-11-01 00:00:00 UTC,purchase,44600062,2103807459595387,apparel.shoes,shiseido,30.00,541312140,72d76fde-8bb3\n"
    "2019-11-02 00:00:00 UTC,view,44600062,2103807459595387724,apparel.shoes,shiseido,35.79,541312140,72d76fde-8bb3\n"
)
COLUMNS = ["session_id", "user_id", "item_id", "timestamp", "event_type", "category_code", "brand", "price"]


def time(month: int, day: int, second: int = 0) -> dt.datetime:
    return dt.datetime(2019, month, day, 0, 0, second, tzinfo=dt.UTC)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_events(tmp_path: Path, end: str) -> None:
    file = write(tmp_path / f"2019-Oct.csv{end}", OCTOBER)
    source = source_of(read, file)
    assert source.columns == COLUMNS
    heater = "appliances.heater"
    expected = [
        ("72d76fde-8bb3", 541312140, 44600062, time(10, 1), "view", None, "shiseido", 35.79),
        ("9333dfbd-b87a", 554748717, 3900821, time(10, 1, 5), "cart", heater, "aqua", 33.2),
        ("72d76fde-8bb3", 541312140, 44600062, time(10, 1, 6), "remove_from_cart", None, "shiseido", 35.79),
        (None, 541312140, 44600062, time(10, 1, 7), "view", None, "shiseido", 30.0),
    ]
    assert events_of(source).rows() == expected
    write(tmp_path / f"2019-Nov.csv{end}", NOVEMBER)
    both = source_of(read, tmp_path)
    assert events_of(both).rows()[2:] == expected
    assert both.rows >= 6


def test_items_change_when_an_event_says_so(tmp_path: Path) -> None:
    write(tmp_path / "2019-Oct.csv", OCTOBER)
    write(tmp_path / "2019-Nov.csv", NOVEMBER)
    source = source_of(read, tmp_path)
    assert source.items is not None
    items = source.items().collect()
    assert items.columns == ["item_id", "timestamp", "category_code", "brand", "price"]
    milliseconds = [
        (day - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)
        for day in (time(10, 1, 5), time(10, 1), time(10, 1, 7), time(11, 1), time(11, 2))
    ]
    assert items.rows() == [
        (3900821, milliseconds[0], "appliances.heater", "aqua", 33.2),
        (44600062, milliseconds[1], None, "shiseido", 35.79),
        (44600062, milliseconds[2], None, "shiseido", 30.0),
        (44600062, milliseconds[3], "apparel.shoes", "shiseido", 30.0),
        (44600062, milliseconds[4], "apparel.shoes", "shiseido", 35.79),
    ]


def test_two_items_of_the_same_values(tmp_path: Path) -> None:
    lines = "".join(f"2019-10-01 00:00:0{i} UTC,view,{i},1,a.b,c,1.00,7,s\n" for i in (1, 2, 2, 1))
    source = source_of(read, write(tmp_path / "a.csv", NAMES + lines))
    assert source.items is not None
    assert source.items().collect()["item_id"].to_list() == [1, 2]


def test_odd_lines(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", OCTOBER + '2019-10-01 00:00:09,view,x,1,"a,b",é,,7,s\n2019-10-01 00:0')
    rows = events_of(source_of(read, tmp_path)).rows()
    assert rows[4:] == [("s", 7, None, None, "view", "a,b", "é", None), (None,) * 8]
    write(tmp_path / "a.csv", "event_time,event_type\n2019-10-01 00:00:00 UTC,view\n")
    with pytest.raises(UserError, match=r"a\.csv can't be read as CSV: .*user_session"):
        events_of(source_of(read, tmp_path))


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "2019-Oct.csv"):
        with pytest.raises(UserError, match="Download the data from Kaggle: mkechinov/ecommerce-behavior-data"):
            source_of(read, path)
