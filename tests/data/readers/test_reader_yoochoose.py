"""Yoochoose's two .dat files."""

import datetime as dt
from pathlib import Path

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.yoochoose import read

CLICKS = (
    "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"
    "2,2014-04-07T13:56:37.614Z,214662742,12\n"
)
BUYS = "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.325Z,214537850,0,0\n"
COLUMNS = ["session_id", "item_id", "timestamp", "event_type", "category", "price", "quantity"]


def time(*fields: int) -> dt.datetime:
    return dt.datetime(2014, 4, *fields, tzinfo=dt.UTC)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_clicks_and_buys(tmp_path: Path, end: str) -> None:
    write(tmp_path / f"yoochoose-clicks.dat{end}", CLICKS)
    write(tmp_path / f"yoochoose-buys.dat{end}", BUYS)
    write(tmp_path / "yoochoose-test.dat", CLICKS)
    source = source_of(read, tmp_path, buys=True)
    assert (source.name, source.columns) == ("yoochoose", COLUMNS)
    expected = [
        (1, 214536502, time(7, 10, 51, 9, 277_000), "view", None, None, None),
        (1, 214536500, time(7, 10, 54, 9, 868_000), "view", "S", None, None),
        (2, 214662742, time(7, 13, 56, 37, 614_000), "view", "12", None, None),
        (420374, 214537888, time(6, 18, 44, 58, 314_000), "purchase", None, 12462, 1),
        (420374, 214537850, time(6, 18, 44, 58, 325_000), "purchase", None, None, None),
    ]
    assert events_of(source).rows() == expected
    assert events_of(source, ["price", "event_type"]).rows() == [(row[5], row[3]) for row in expected]
    assert source.rows >= 5


def test_clicks_alone(tmp_path: Path) -> None:
    write(tmp_path / "yoochoose-clicks.dat", CLICKS)
    source = source_of(read, tmp_path, buys=False)
    assert events_of(source)["event_type"].to_list() == ["view"] * 3
    with pytest.raises(
        UserError, match=r"no yoochoose-buys\.dat; download it from recsys\.acm\.org/recsys15/challenge"
    ):
        source_of(read, tmp_path, buys=True)


def test_odd_lines(tmp_path: Path) -> None:
    write(tmp_path / "yoochoose-clicks.dat", CLICKS + "x,2014-04-07,7,0\n3,2014-04-0")
    rows = events_of(source_of(read, tmp_path, buys=False), ["session_id", "item_id", "timestamp"]).rows()
    assert rows[3:] == [(None, 7, None), (3, None, None)]
    write(tmp_path / "yoochoose-clicks.dat", CLICKS + "1,2014-04-07T10:51:09.277Z,7,0,5\n")
    with pytest.raises(UserError, match=r"yoochoose-clicks\.dat can't be read as CSV: found more fields"):
        events_of(source_of(read, tmp_path, buys=False))
    write(tmp_path / "yoochoose-clicks.dat", "")
    with pytest.raises(UserError, match=r"yoochoose-clicks\.dat is empty"):
        source_of(read, tmp_path, buys=False)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder with yoochoose-clicks\.dat; download it from"):
        source_of(read, tmp_path / "nowhere", buys=True)
