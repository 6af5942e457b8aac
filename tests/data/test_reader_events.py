"""Parquet, CSV and JSON Lines in the forms that shops have them."""

import datetime as dt
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twotower.data.readers.events import find_files, read_events
from twotower.errors import UserError

Rows = list[tuple[Any, ...]]
ROWS: Rows = [("s1", 10, 100), ("s1", 11, 101), ("s2", 10, 50)]


def read(path: Path | str, columns: Mapping[str, str | None] | None = None) -> pl.DataFrame:
    return read_events(find_files(str(path)), columns or {})


def table(*items: Any, dtype: Any = None) -> pl.DataFrame:
    """Events of one session whose item ids are given."""
    ids = pl.Series("item_id", items, dtype=dtype, strict=False)
    return pl.DataFrame([pl.Series("session_id", [1] * len(items)), ids, pl.Series("timestamp", range(len(items)))])


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


CSV = "session_id,item_id,timestamp\ns1,10,100\ns1,11,101\ns2,10,50\n"
JSON = '{"session_id": "%s", "item_id": %d, "timestamp": %d}\n'
FORMS = {
    "a.csv": CSV.encode(),
    "b.CSV": CSV.replace(",", ";").encode(),
    "c.tsv": CSV.replace(",", "\t").encode(),
    "d.csv": CSV.replace(",", "|").encode(),
    "e.csv.gz": gzip.compress(CSV.encode()),
    "f.csv": b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode(),  # as Excel writes it
    "g.csv": CSV.replace("s1", '"s1"').encode(),
    "h.jsonl": "".join(JSON % row for row in ROWS).encode(),
    "i.ndjson": "\n".join(JSON % row for row in ROWS).encode(),
    "j.jsonl.gz": gzip.compress("".join(JSON % row for row in ROWS).encode()),
    "k.tsv.gz": gzip.compress(CSV.replace(",", "\t").encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_events_in_every_text_form(tmp_path: Path, name: str) -> None:
    events = read(write(tmp_path / name, FORMS[name]))
    assert events.columns == ["session_id", "item_id", "timestamp"]
    assert events.with_columns(pl.col("timestamp").cast(pl.Int64)).rows() == ROWS
    assert events.schema["item_id"] == pl.Int64


@pytest.mark.parametrize("name", ["events.parquet", "events.pq"])
def test_parquet(tmp_path: Path, name: str) -> None:
    pl.DataFrame(ROWS, schema=["session_id", "item_id", "timestamp"], orient="row").write_parquet(tmp_path / name)
    assert read(tmp_path / name).rows() == ROWS


def test_columns_are_mapped_and_others_left(tmp_path: Path) -> None:
    text = "visit,sku,when,price,type,item_id\nv,a,5,1.5,view,wrong\n"
    mapping = {
        "item_id": "sku",
        "session_id": "visit",
        "timestamp": "when",
        "event_type": "type",
        "user_id": None,
    }
    events = read(write(tmp_path / "a.csv", text), mapping)
    assert events.to_dicts() == [{"session_id": "v", "item_id": "a", "timestamp": "5", "event_type": "view"}]


# Which files


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a/9.csv", "b/10.csv"):
        write(tmp_path / "log" / name, f"session_id,item_id,timestamp\n1,{name[:-4]},1\n")
    for name in (".hidden.csv", "_SUCCESS", "_tmp/x.csv", ".cache/y.csv", "README.md"):
        write(tmp_path / "log" / name, "other")
    assert read(tmp_path / "log")["item_id"].to_list() == ["a/9", "b/10", "b/2"]
    assert read(tmp_path / "log" / "b" / "*.csv")["item_id"].to_list() == ["b/10", "b/2"]
    assert read(tmp_path / "log" / "**" / "[0-9].csv")["item_id"].to_list() == ["a/9", "b/2"]


def test_names_with_special_characters(tmp_path: Path) -> None:
    for name in ("a[1]*.csv", "_b.csv", ".c.csv", "été 日?.csv"):
        assert read(write(tmp_path / name, CSV)).height == 3
    assert read(write(tmp_path / "a[1].jsonl", FORMS["h.jsonl"])).height == 3
    table("a").write_parquet(tmp_path / "a.parquet")
    assert read((tmp_path / "a.parquet").rename(tmp_path / "[a].parquet")).height == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("evnts.csv", r"evnts.csv: no such file, folder or glob; did you mean 'events.csv'\?"),
        ("nowhere/*.csv", r"no such file, folder or glob"),
        ("empty-folder", r"no event files; expected names that end in .parquet, .pq, .csv"),
        ("notes.txt", r"notes.txt: no event files; expected names that end in"),
        ("mixed", r"mixed: files of CSV and JSON Lines; choose one kind with a glob, .*mixed/\*\.csv"),
        ("zero.csv", r"zero.csv is empty \(0 bytes\)"),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    for name in ("events.csv", "notes.txt", "mixed/a.csv", "mixed/b.jsonl"):
        write(tmp_path / name, CSV)
    write(tmp_path / "zero.csv", "")
    with pytest.raises(UserError, match=message):
        find_files(str(tmp_path / path))


# Which ids


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([3, 1], dtype=pl.UInt8), [3, 1]),
        (pl.Series([2**63, 1], dtype=pl.UInt64), ["9223372036854775808", "1"]),
        (pl.Series([3.0, None, float("nan")]), [3, None, None]),
        (pl.Series([3.5, 2.0]), ["3.5", "2.0"]),
        (pl.Series([1e19, 2.0]), ["1e+19", "2.0"]),
        (pl.Series(["12.00", "3.00"]).cast(pl.Decimal(10, 2)), [12, 3]),
        (pl.Series(["007", "12"]), ["007", "12"]),
        (pl.Series(["7", "12", None, ""]), [7, 12, None, None]),
        (pl.Series(["7.0", "12.0", None]), [7, 12, None]),
        (pl.Series(["-1", "0"]), [-1, 0]),
        (pl.Series(["-0", "+1", "1e3"]), ["-0", "+1", "1e3"]),
        (pl.Series(["99999999999999999999", "1"]), ["99999999999999999999", "1"]),
        (pl.Series(["é", "日本", "🛒", " "]), ["é", "日本", "🛒", " "]),
        (pl.Series(["b", "a", "b"]).cast(pl.Categorical), ["b", "a", "b"]),
        (pl.Series(["2", "10"]).cast(pl.Enum(["10", "2"])), [2, 10]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_ids(tmp_path: Path, column: pl.Series, expected: list[Any]) -> None:
    table(*range(len(column))).with_columns(column.alias("item_id")).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["item_id"].to_list() == expected


def test_ids_of_different_types_in_several_files(tmp_path: Path) -> None:
    for number, ids in enumerate([[1, 12], [2.0, None], ["3", "12"]]):
        table(*ids).write_parquet(tmp_path / f"{number}.parquet")
    assert read(tmp_path)["item_id"].to_list() == [1, 12, 2, None, 3, 12]
    table("007", "x").write_parquet(tmp_path / "3.parquet")
    table("x", "y", dtype=pl.Categorical).write_parquet(tmp_path / "4.parquet")
    table("y", "z", dtype=pl.Categorical).write_parquet(tmp_path / "5.parquet")
    expected = ["1", "12", "2", None, "3", "12", "007", "x", "x", "y", "y", "z"]
    assert read(tmp_path)["item_id"].to_list() == expected


def test_ids_of_both_kinds_in_one_json_lines_file(tmp_path: Path) -> None:
    lines = [f'{{"session_id": 1, "item_id": {i}, "timestamp": 1}}' for i in ("12", '"12"', '"007"', "null", '"x"')]
    events = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert events["item_id"].to_list() == ["12", "12", "007", None, "x"]
    events = read(write(tmp_path / "a.jsonl", "\n".join(lines[:2])))
    assert events["item_id"].to_list() == [12, 12]


def test_event_types_and_splits_are_strings(tmp_path: Path) -> None:
    for number, values in enumerate([[1, 2], [1.0, None], ["1", "cart"]]):
        more = [pl.Series("event_type", values), pl.Series("split", values, dtype=pl.String, strict=False)]
        table("a", "b").with_columns(more).write_parquet(tmp_path / f"{number}.parquet")
    events = read(tmp_path)
    assert events["event_type"].to_list() == ["1", "2", "1", None, "1", "cart"]
    assert events.schema["split"] == pl.String


def test_empty_values_are_missing(tmp_path: Path) -> None:
    events = read(write(tmp_path / "a.csv", 'session_id,item_id,timestamp\n"",1,2\n,1,2\ns,"",\n'))
    assert events["session_id"].to_list() == [None, None, "s"]
    assert events["item_id"].to_list() == [1, 1, None]


def test_timestamps_of_one_kind_in_several_files(tmp_path: Path) -> None:
    utc = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    series = [
        pl.Series("timestamp", [utc.date()]),
        pl.Series("timestamp", [utc.replace(tzinfo=None)], dtype=pl.Datetime("ns")),
        pl.Series("timestamp", [utc]).dt.convert_time_zone("Asia/Tokyo"),
    ]
    for number, column in enumerate(series):
        table("a").with_columns(column).write_parquet(tmp_path / f"{number}.parquet")
    assert read(tmp_path)["timestamp"].to_list() == [utc] * 3
    table("a").with_columns(timestamp=None).write_parquet(tmp_path / "3.parquet")
    assert read(tmp_path)["timestamp"].to_list() == [utc] * 3 + [None]
    table("a").write_parquet(tmp_path / "3.parquet")
    with pytest.raises(UserError, match=r"are dates in .*2\.parquet but not in .*3\.parquet; all should be alike"):
        read(tmp_path)


# What can't be read


def test_the_same_columns_in_all_files(tmp_path: Path) -> None:
    table("a").write_parquet(tmp_path / "0.parquet")
    table("a").with_columns(split=pl.lit("test")).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet has a column for split, .*0\.parquet has none"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"itm_id": "sku"}, r"data.columns.itm_id is not a column the events have; did you mean 'item_id'\?"),
        ({"item_id": "skuu"}, r"no column 'skuu', named by data.columns.item_id .*; did you mean 'sku'\?"),
        ({"item_id": "sku", "user_id": "custmer"}, r"data.columns.user_id .*did you mean 'customer'\?"),
        ({"timestamp": "time"}, r"no column 'item_id' \(it has: sku, time, customer\)\. Say .*item_id=NAME"),
        (
            {"item_id": "sku"},
            r"no column 'timestamp' .*; did you mean 'time'\? Say .*data.columns.timestamp=NAME",
        ),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    path = write(tmp_path / "a.csv", "sku,time,customer\na,1,c\n")
    with pytest.raises(UserError, match=message):
        read(path, columns)


GOOD = (JSON % ROWS[0]).encode()
PARQUET = b"PAR1" + bytes(40)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"this is no parquet file, it is text", "as Parquet: .*expected a whole Parquet file"),
        ("a.parquet", PARQUET, "as Parquet"),
        (
            "a.csv",
            CSV.encode() + b"s2,10,51,more\n",
            "as CSV: found more fields .*as many fields in each line",
        ),
        ("a.csv", b"item_id,timestamp,x\na,1,2\nb,1,2,3\n", "as CSV: found more fields"),
        ("a.csv", "session_id,item_id,timestamp\né,1,1\n".encode("latin-1"), "as CSV: .*UTF-8 text"),
        ("a.csv", b"\n", "as CSV: .*a line with the columns' names"),
        ("a.csv.gz", b"plain text", "as CSV: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(CSV.encode() * 500)[:-20], "as CSV"),
        ("a.csv.gz", gzip.compress(CSV.encode())[:12], "as CSV"),
        (
            "a.jsonl",
            GOOD * 2 + b'{"session_id": \n' + GOOD,
            r"as JSON Lines: .*\(line 3\); expected UTF-8 text with",
        ),
        ("a.jsonl", GOOD + b"\nhello\n", r"as JSON Lines: .*\(line 3\)"),
        ("a.jsonl", GOOD * 3 + GOOD[:20], r"as JSON Lines: .*\(line 4\)"),
        ("a.jsonl", b"[" + GOOD.strip() + b"]", r"as JSON Lines: .*\(line 1\)"),
        (
            "a.jsonl",
            GOOD + b'{"session_id": "s", "item_id": [1], "timestamp": 1}\n',
            "as JSON Lines: .*one kind",
        ),
        (
            "a.jsonl",
            b'{"item_id": [1], "timestamp": 1}\n',
            r"item_id holds List\(Int64\); expected strings or numbers",
        ),
        ("a.jsonl", b'{"item_id": {"a": 1}, "timestamp": 1}\n', "item_id holds Struct"),
        ("a.jsonl", b'{"item_id": 1, "timestamp": [1]}\n', "timestamp holds List"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_ids_are_refused(tmp_path: Path) -> None:
    table(b"a", b"b").write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="item_id holds Binary"):
        read(tmp_path)
