"""Parquet, CSV and JSON Lines in the forms that shops have them."""

import datetime as dt
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers import chunks, events
from twotower.data.readers.files import find_files
from twotower.data.readers.source import Source

Rows = list[tuple[Any, ...]]
ROWS: Rows = [("s1", 10, 100), ("s1", 11, 101), ("s2", 10, 50)]
TEXTS: Rows = [("s1", "10", "100"), ("s1", "11", "101"), ("s2", "10", "50")]


def source(path: Path | str, columns: Mapping[str, Any] | None = None, **more: Any) -> Source:
    settings = {"timestamp_unit": "auto", "items": None, "users": None, **more}
    return source_of(events.read, path, columns=columns or {}, **settings)


def read(path: Path | str, columns: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """The events' own columns."""
    given = source(path, columns)
    return events_of(given, [name for name in given.columns if name in events.COLUMNS])


def table(*items: Any, dtype: Any = None) -> pl.DataFrame:
    """Events of one session whose item ids are given."""
    ids = pl.Series("item_id", items, dtype=dtype, strict=False)
    return pl.DataFrame([pl.Series("session_id", [1] * len(items)), ids, pl.Series("timestamp", range(len(items)))])


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
    assert events.rows() == TEXTS


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
    given = source(write(tmp_path / "a.csv", text), mapping)
    events = events_of(given, ["session_id", "item_id", "timestamp", "event_type", "price"])
    expected = {"session_id": "v", "item_id": "a", "timestamp": "5", "event_type": "view", "price": "1.5"}
    assert events.to_dicts() == [expected]
    assert given.columns == ["session_id", "item_id", "timestamp", "event_type", *text.split("\n")[0].split(",")[:5]]


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
        ("empty-folder", r"no files of a table; expected names that end in .parquet, .pq, .csv"),
        ("notes.txt", r"notes.txt: no files of a table; expected names that end in"),
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
        (pl.Series([3, None], dtype=pl.Int16), [3, None]),
        (pl.Series([2**63, 1], dtype=pl.UInt64), ["9223372036854775808", "1"]),
        (pl.Series([3.0, None, float("nan")]), ["3", None, None]),
        (pl.Series([3.5, -2.0]), ["3.5", "-2"]),
        (pl.Series([3.0], dtype=pl.Float32), ["3"]),
        (pl.Series([1e19, 2.0**53]), ["1e+19", "9007199254740992"]),
        (pl.Series(["12.00", "3.50"]).cast(pl.Decimal(10, 2)), ["12", "3.50"]),
        (pl.Series(["007", "12"]), ["007", "12"]),
        (pl.Series(["7", "12.0", None, ""]), ["7", "12.0", None, None]),
        (pl.Series(["é", "日本", "🛒", " "]), ["é", "日本", "🛒", " "]),
        (pl.Series(["b", "a", "b"]).cast(pl.Categorical), ["b", "a", "b"]),
        (pl.Series(["2", "10"]).cast(pl.Enum(["10", "2"])), ["2", "10"]),
        (pl.Series([True, None]), ["true", None]),
        (pl.Series([None, None]), [None, None]),
    ],
)
def test_ids(tmp_path: Path, column: pl.Series, expected: list[Any]) -> None:
    table(*range(len(column))).with_columns(column.alias("item_id")).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["item_id"].to_list() == expected


def test_ids_of_different_types_in_several_files(tmp_path: Path) -> None:
    table(1, 12).write_parquet(tmp_path / "0.parquet")
    table(3, 4, dtype=pl.Int8).write_parquet(tmp_path / "1.parquet")
    assert read(tmp_path)["item_id"].to_list() == [1, 12, 3, 4]
    for number, ids in enumerate([[2.0, None], ["3", "007"]], start=2):
        table(*ids).write_parquet(tmp_path / f"{number}.parquet")
    table("x", "y", dtype=pl.Categorical).write_parquet(tmp_path / "4.parquet")
    expected = ["1", "12", "3", "4", "2", None, "3", "007", "x", "y"]
    assert read(tmp_path)["item_id"].to_list() == expected


def test_numbers_and_strings_in_one_column_of_json_lines(tmp_path: Path) -> None:
    values = ("12", '"12"', '"007"', "null", '"x"', "1.5", "true", '"[12"', '"[a]"', '""', '"\\ud83d\\uded2"')
    lines = [f'{{"session_id": 1, "item_id": {value}, "timestamp": 1}}' for value in values]
    events = read(write(tmp_path / "a.jsonl", "\n".join(lines) + '\n{"timestamp": 2}\n\n'))
    expected = ["12", "12", "007", None, "x", "1.5", "true", "[12", "[a]", None, "🛒", None]
    assert events["item_id"].to_list() == expected
    assert events["timestamp"].to_list() == ["1"] * 11 + ["2"]


def test_keys_that_come_late_or_in_some_files_of_json_lines(tmp_path: Path) -> None:
    write(
        tmp_path / "0.jsonl", '{"item_id": 1, "timestamp": 1}\n{"item_id": 2, "timestamp": 2, "event_type": "cart"}\n'
    )
    write(tmp_path / "1.jsonl", '{"timestamp": 3, "item_id": 3, "page": 7}\n')
    given = source(tmp_path)
    assert given.columns == ["item_id", "timestamp", "event_type", "page"]
    expected = [("1", None, None), ("2", "cart", None), ("3", None, "7")]
    assert events_of(given, ["item_id", "event_type", "page"]).rows() == expected


def test_event_types_splits_and_consent_are_strings(tmp_path: Path) -> None:
    for number, values in enumerate([[1, 2], [1.0, None], ["1", "cart"]]):
        more = [pl.Series("event_type", values), pl.Series("split", values, dtype=pl.String, strict=False)]
        more += [pl.Series("consent", [[True, None], [1, 0], ["yes", ""]][number])]
        table("a", "b").with_columns(more).write_parquet(tmp_path / f"{number}.parquet")
    events = read(tmp_path)
    assert events["event_type"].to_list() == ["1", "2", "1", None, "1", "cart"]
    assert events["consent"].to_list() == ["true", None, "1", "0", "yes", None]
    assert events.schema["split"] == pl.String


def test_empty_values_are_missing(tmp_path: Path) -> None:
    events = read(write(tmp_path / "a.csv", 'session_id,item_id,timestamp\n"",1,2\n,1,2\ns,"",\n'))
    assert events["session_id"].to_list() == [None, None, "s"]
    assert events["item_id"].to_list() == ["1", "1", None]
    assert events["timestamp"].to_list() == ["2", "2", None]


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
    naive = pl.Series("timestamp", [utc.replace(tzinfo=None)], dtype=pl.Datetime("ms"))
    table("a").with_columns(naive).write_parquet(tmp_path / "4.parquet")
    assert read(tmp_path)["timestamp"].to_list() == [utc] * 3 + [None, utc]
    table("a").write_parquet(tmp_path / "3.parquet")
    with pytest.raises(UserError, match=r"are dates in .*4\.parquet but not in .*3\.parquet; all should be alike"):
        read(tmp_path)


def test_numeric_timestamps_of_several_files(tmp_path: Path) -> None:
    for number, column in enumerate(
        [pl.Series("timestamp", [1], dtype=pl.Int16), pl.Series("timestamp", [2**62], dtype=pl.UInt64)]
    ):
        table("a").with_columns(column).write_parquet(tmp_path / f"{number}.parquet")
    assert read(tmp_path)["timestamp"].to_list() == [1, 2**62]
    table("a").with_columns(timestamp=1.5).write_parquet(tmp_path / "2.parquet")
    assert read(tmp_path)["timestamp"].to_list() == [1.0, 2.0**62, 1.5]
    table("a").with_columns(timestamp=pl.lit("7")).write_parquet(tmp_path / "3.parquet")
    assert read(tmp_path)["timestamp"].to_list() == ["1", str(2**62), "1.5", "7"]


# Features of events


def test_further_columns_have_one_type(tmp_path: Path) -> None:
    columns = {
        "device": (["web", ""], ["app", None], pl.String, ["web", None, "app", None]),
        "age": ([31, None], [40.5, 2.0], pl.Float64, [31.0, None, 40.5, 2.0]),
        "floor": ([1, 2], [3, 4], pl.Int64, [1, 2, 3, 4]),
        "zip": ([1, 2], ["a", "007"], pl.String, ["1", "2", "a", "007"]),
        "logged_in": ([True, None], [False, True], pl.String, ["true", None, "false", "true"]),
    }
    for number in range(2):
        more = [pl.Series(name, column[number]) for name, column in columns.items()]
        table("a", "b").with_columns(more).write_parquet(tmp_path / f"{number}.parquet")
    events = events_of(source(tmp_path), list(columns))
    assert dict(events.schema) == {name: column[2] for name, column in columns.items()}
    assert events.to_dict(as_series=False) == {name: column[3] for name, column in columns.items()}


def test_a_further_column_that_some_files_lack_is_null_there(tmp_path: Path) -> None:
    table("a").write_parquet(tmp_path / "0.parquet")
    table("b").with_columns(device=pl.lit("web")).write_parquet(tmp_path / "1.parquet")
    assert events_of(source(tmp_path), ["item_id", "device"]).rows() == [("a", None), ("b", "web")]


def test_a_nested_column_matters_only_where_it_is_wanted(tmp_path: Path) -> None:
    table("a").with_columns(tags=pl.Series([["x"]])).write_parquet(tmp_path / "a.parquet")
    given = source(tmp_path)
    assert events_of(given, ["item_id"]).height == 1
    with pytest.raises(UserError, match=r"tags holds List\(String\); expected strings or numbers"):
        events_of(given, ["item_id", "tags"])


# Folders as Hive and Spark write them


def test_keys_of_folders_are_columns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parts = {
        "date=2025-01-31/event_type=add%20to%20cart/part-0.snappy.parquet": "a",
        "date=2025-01-31/event_type=view/part-0.snappy.parquet": "b",
        "date=2025-02-01/event_type=__HIVE_DEFAULT_PARTITION__/more/part-0.snappy.parquet": "c",
        "date=__HIVE_DEFAULT_PARTITION__/_event_type=x/event_type=view=2/part-1.snappy.parquet": "d",
    }
    for name, item in parts.items():
        (log / name).parent.mkdir(parents=True, exist_ok=True)
        table(item, item).drop("timestamp").write_parquet(log / name)
        write((log / name).parent / ".part-0.snappy.parquet.crc", "x")
    write(log / "_SUCCESS", "")
    write(log / "_temporary" / "0" / "part-9.parquet", "half")
    given = source(log, {"timestamp": "date"})
    assert given.columns == ["session_id", "item_id", "timestamp", "event_type", "date", "_event_type"]
    january, february = (dt.datetime(2025, *day, tzinfo=dt.UTC) for day in ((1, 31), (2, 1)))
    assert events_of(given, ["item_id", "timestamp", "event_type"]).rows() == [
        *[("a", january, "add to cart")] * 2,
        *[("b", january, "view")] * 2,
        *[("c", february, None)] * 2,
        *[("d", None, "view=2")] * 2,
    ]
    assert events_of(given, ["timestamp"])["timestamp"].to_list() == [january] * 4 + [february] * 2 + [None] * 2
    assert events_of(given, ["date"])["date"][0] == "2025-01-31"
    assert given.rows == 8


@pytest.mark.parametrize("name", ["part.csv", "part.jsonl"])
def test_keys_of_folders_of_text_files(tmp_path: Path, name: str) -> None:
    for hour, item in (("00", "a"), ("23", "b")):
        path = tmp_path / f"time=2025-01-31 {hour}%3A00%3A00" / "item_id=7" / name
        write(path, f"item_id,user_id\n{item},u\n" if "csv" in name else f'{{"item_id": "{item}", "user_id": "u"}}\n')
    rows = read(tmp_path, {"timestamp": "time"}).select("item_id", "timestamp").rows()
    times = [dt.datetime(2025, 1, 31, hour, tzinfo=dt.UTC) for hour in (0, 23)]
    assert rows == [("a", times[0]), ("b", times[1])]  # the file's own column goes before the folder's


def test_keys_that_are_numbers_are_no_dates(tmp_path: Path) -> None:
    for number in ("3", "10"):
        path = tmp_path / f"step={number}" / "a.csv"
        write(path, "item_id\nx\n")
    assert read(tmp_path, {"timestamp": "step"})["timestamp"].to_list() == ["10", "3"]


def test_a_key_that_only_some_folders_have(tmp_path: Path) -> None:
    for name in ("split=test/a.csv", "b.csv"):
        write(tmp_path / name, CSV)
    with pytest.raises(UserError, match=r"a\.csv has a column for split, .*b\.csv has none"):
        read(tmp_path)


# Large files


def test_one_large_row_group_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1000)
    many = pl.DataFrame({"session_id": range(12_345), "item_id": 1, "timestamp": 1})
    many.write_parquet(tmp_path / "a.parquet", row_group_size=100_000)
    many.write_parquet(tmp_path / "b.parquet", row_group_size=700)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    given = source(tmp_path)
    assert max(frame.height for frame in chunks.parquet_frames(tmp_path / "a.parquet", ["session_id"])) == 1000
    assert max(chunk.height for chunk in given.chunks(["session_id"])) <= 1000
    assert events_of(given)["session_id"].to_list() == [*range(12_345)] * 2
    assert given.rows == 24_690


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_large_text_comes_in_chunks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1000)
    monkeypatch.setattr(chunks, "PIECE_BYTES", 10_001)
    rows = [
        f"{i},日本 {i},1" if "csv" in name else f'{{"session_id": {i}, "item_id": "日本 {i}", "timestamp": 1}}'
        for i in range(5000)
    ]
    given = source(write(tmp_path / name, "\n".join(["session_id,item_id,timestamp"] * ("csv" in name) + rows)))
    parts = list(given.chunks(["session_id"]))
    assert len(parts) >= 5 and max(part.height for part in parts) <= 1000
    events = events_of(given)
    assert events["item_id"].to_list() == [f"日本 {i}" for i in range(5000)]
    assert 5000 <= given.rows <= 5002


def test_a_broken_line_of_a_later_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PIECE_BYTES", 200)
    monkeypatch.setattr(chunks, "SAMPLE_LINES", 3)
    content = GOOD * 20 + b"{\n" + GOOD * 20
    with pytest.raises(UserError, match=r"as JSON Lines: line 21 is not a JSON object"):
        read(write(tmp_path / "a.jsonl", content))


def test_how_many_rows_there_are_is_judged_by_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.data.readers.files.SAMPLE_BYTES", 100_000)
    lines = "session_id,item_id,timestamp\n" + "".join(
        f"{i * 7919 % 99991},{i * 31 % 997},{i}\n" for i in range(60_000)
    )
    for name in ("a.csv", "b.csv.gz"):
        assert 60_000 <= source(write(tmp_path / name, lines)).rows <= 150_000


# Tables of features


def test_tables_of_items_and_users(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "sku,timestamp,user_id\na,1,u\n")
    write(tmp_path / "users.csv.gz", "user_id;age\nu;31\n")
    pl.DataFrame({"sku": ["a"], "tags": [["x", "y"]], "item_id": [7]}).write_parquet(tmp_path / "items.parquet")
    paths = {name: str(next(tmp_path.glob(f"{name}.*"))) for name in ("items", "users")}
    given = source(tmp_path / "log.csv", {"item_id": "sku"}, **paths)
    assert given.items is not None and given.users is not None
    assert given.items().collect().to_dicts() == [{"item_id": "a", "tags": ["x", "y"]}]
    assert given.users().collect().to_dicts() == [{"user_id": "u", "age": "31"}]
    assert [file.name for file in given.files] == ["log.csv", "items.parquet", "users.csv.gz"]
    other = source(tmp_path / "log.csv", {"item_id": "sku"}, items=None, users=paths["users"])
    assert other.settings != given.settings and other.items is None
    assert source(tmp_path / "log.csv", {"item_id": "sku"}, **paths, timestamp_unit="s").settings != given.settings


@pytest.mark.parametrize(
    ("name", "content", "unit"),
    [
        ("items.csv", "item_id,timestamp,price\na,2025-01-31 00:00:00,1\na,2025-01-31T00:00:01Z,2\n", "auto"),
        ("items.csv", "item_id,time,price\na,1738281600,1\na,1738281601,2\n", "s"),
        ("items.jsonl", '{"item_id": "a", "time": 1738281600000, "price": 1}\n' * 2, "auto"),
    ],
)
def test_tables_that_hold_from_a_time_on(tmp_path: Path, name: str, content: str, unit: str) -> None:
    write(tmp_path / "log.csv", "item_id,time,user_id\na,1,u\n")
    columns = {"timestamp": "time"}
    given = source(tmp_path / "log.csv", columns, items=str(write(tmp_path / name, content)), timestamp_unit=unit)
    assert given.items is not None
    items = given.items().collect()
    assert items["timestamp"].dtype == pl.Int64
    assert items["timestamp"].to_list() == [1738281600000, 1738281600000 + (1000 if "csv" in name else 0)]


def test_tables_of_several_files(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "item_id,timestamp,user_id\na,1,u\n")
    write(tmp_path / "items" / "0.jsonl", '{"item_id": 1, "brand": "é"}\n')
    write(tmp_path / "items" / "1.jsonl", '{"item_id": "x", "tags": ["a", "b"]}\n')
    given = source(tmp_path / "log.csv", items=str(tmp_path / "items"))
    assert given.items is not None
    assert given.items().collect().rows() == [("1", "é", None), ("x", None, ["a", "b"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "items.csv",
            "id,brand\n1,b\n",
            r"items\.csv has no column 'item_id' \(it has: id, brand\).* data.items needs the ids",
        ),
        ("itms.csv", "", r"data\.items=.*items\.csv: no such file, folder or glob; did you mean 'itms\.csv'\?"),
        ("items.csv", "", r"items\.csv is empty"),
        ("items.csv", "\n", r"items\.csv can't be read as CSV"),
    ],
)
def test_tables_that_are_unusable(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path / "log.csv", "item_id,timestamp,user_id\na,1,u\n")
    write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        source(tmp_path / "log.csv", items=str(tmp_path / "items.csv"))


# What can't be read


def test_the_same_columns_in_all_files(tmp_path: Path) -> None:
    table("a").write_parquet(tmp_path / "0.parquet")
    table("a").with_columns(split=pl.lit("test")).write_parquet(tmp_path / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet has a column for split, .*0\.parquet has none"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"itm_id": "sku"}, r"data.columns.itm_id is not a column that events have; did you mean 'item_id'\?"),
        ({"item_id": "skuu"}, r"no column 'skuu' .*; did you mean 'sku'.*data.columns.item_id=NAME"),
        ({"item_id": "sku", "user_id": "custmer"}, r"'custmer' .*did you mean 'customer'.*data.columns.user_id=NAME"),
        ({"timestamp": "time"}, r"no column 'item_id' \(it has: sku, time, customer\)\. .*item_id=NAME"),
        (
            {"item_id": "sku"},
            r"no column 'timestamp' .*; did you mean 'time'\? .*data.columns.timestamp=NAME",
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
        ("a.csv", b"\n", "as CSV: empty CSV; expected UTF-8 text"),
        ("a.csv.gz", b"plain text", "as CSV: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(CSV.encode() * 500, mtime=0)[:-20], "as CSV"),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:12], "as CSV"),
        (
            "a.jsonl",
            GOOD * 2 + b'{"session_id": \n' + GOOD,
            r"as JSON Lines: line 3 is not a JSON object; expected UTF-8 text with",
        ),
        ("a.jsonl", GOOD + b"\nhello\n", r"as JSON Lines: line 3 is not a JSON object"),
        ("a.jsonl", GOOD * 3 + GOOD[:20], r"as JSON Lines: line 4 is not a JSON object"),
        ("a.jsonl", b"[" + GOOD.strip() + b"]", r"as JSON Lines: line 1 is not a JSON object"),
        (
            "a.jsonl",
            GOOD + b'{"session_id": "s", "item_id": [1], "timestamp": 1}\n',
            r"item_id holds \[1\]; expected strings or numbers",
        ),
        (
            "a.jsonl",
            b'{"item_id": [1], "timestamp": 1}\n',
            r"item_id holds \[1\]; expected strings or numbers",
        ),
        ("a.jsonl", b'{"item_id": {"a": 1}, "timestamp": 1}\n', r"item_id holds \{.a.: 1\}"),
        ("a.jsonl", b'{"item_id": 1, "timestamp": [1]}\n', r"timestamp holds \[1\]"),
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


@pytest.mark.parametrize("off", [None, False])
@pytest.mark.parametrize("name", ["session_id", "user_id", "event_type", "consent", "split"])
def test_a_column_can_be_switched_off(tmp_path: Path, name: str, off: object) -> None:
    columns = ("session_id", "user_id", "item_id", "timestamp", "event_type", "split", "consent")
    pl.DataFrame({column: ["7"] for column in columns}).write_parquet(tmp_path / "a.parquet")
    assert set(source(tmp_path, {name: "auto"}).columns) == set(columns)
    assert set(source(tmp_path, {name: off}).columns) == set(columns) - {name}
    for needed in ("item_id", "timestamp"):
        with pytest.raises(UserError, match=f"data.columns.{needed}={off}; events need this column"):
            source(tmp_path, {needed: off})
