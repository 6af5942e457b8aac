"""Files of a stream: each event once, whatever is replayed; and the next preparation reads them."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import preparing

from twotower.core.errors import UserError
from twotower.data.readers.events import event_source, read
from twotower.server.store.event_store import Event
from twotower.server.streams.event_archive import kept_columns, lines_of, parquet_of, write_once
from twotower.server.streams.messages import Message


def offset(number: int) -> str:
    return f"{number:020d}"


def numbers(rows: list[Any]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def written(folder: Path, partition: str = "p-0") -> list[int]:
    files = folder.glob(f"{partition}_*.txt")
    return sorted(int(line) for file in files for line in file.read_text().split())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=12), st.integers(1, 3))
def test_replays_of_any_ranges_are_written_once(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]], step: int
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    expected: set[int] = set()
    for first, count in reads:  # only each `step`-th message belongs into these files
        rows = [number for number in range(first, first + count) if number % step == 0]
        new = write_once(folder, "p-0", "txt", [(offset(number), number) for number in rows], numbers)
        assert new == len(set(rows) - expected)
        expected |= set(rows)
    assert written(folder) == sorted(expected)
    shutil.rmtree(folder)


def test_partitions_with_similar_and_odd_names_are_apart(tmp_path: Path) -> None:
    for name in ("p-0", "p-0_1", "p", "a/b=c*[x]", "p-00"):
        assert write_once(tmp_path, name, "txt", [(offset(3), 3)], numbers) == 1
        assert write_once(tmp_path, name, "txt", [(offset(3), 3)], numbers) == 0
    assert write_once(tmp_path, "p-0", "jsonl", [(offset(3), 3)], numbers) == 1
    assert len(list(tmp_path.iterdir())) == 6


def write_all(folder: Path, size: int) -> None:
    for first in range(0, 200, size):
        rows = [(offset(number), number) for number in range(first, min(200, first + size))]
        write_once(folder, "p-0", "txt", rows, numbers)


def test_two_processes_that_read_the_same_write_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_all, args=(tmp_path, size)) for size in (3, 7)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert written(tmp_path) == list(range(200))


def test_a_folder_that_takes_no_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        write_once(tmp_path / "file", "p-0", "txt", [(offset(1), 1)], numbers)


def test_the_reader_of_events_takes_files_of_mixed_types(tmp_path: Path) -> None:
    time = 1_700_000_000_000
    first: list[tuple[str, Event]] = [
        ("u", {"item_id": 5, "timestamp": time}),
        ("7", {"item_id": 6, "timestamp": time + 1, "price": 2}),
    ]
    second: list[tuple[str, Event]] = [
        ("u", {"item_id": "a", "timestamp": time + 2, "event_type": "cart", "price": 1.5, "gift": True, "odd": 2**64}),
        ("w", {"item_id": 5, "timestamp": time + 3, "odd": "text", "gift": False}),
    ]
    for number, rows in enumerate((second, first)):
        (tmp_path / f"{number}.parquet").write_bytes(parquet_of(rows, kept_columns(tmp_path)))
    assert pl.read_parquet_schema(tmp_path / "1.parquet")["item_id"] == pl.Int64
    source = event_source(str(tmp_path), {}, "auto")
    frame = pl.concat(source.chunks(source.columns)).sort("timestamp")
    assert frame["user_id"].to_list() == ["u", "7", "u", "w"]
    assert frame["item_id"].to_list() == ["5", "6", "a", "5"]
    assert frame["timestamp"].dt.epoch("ms").to_list() == [time, time + 1, time + 2, time + 3]
    assert frame["event_type"].to_list() == [None, None, "cart", None]  # also in the file where no event has one
    assert frame["price"].to_list() == [None, 2.0, 1.5, None]
    assert frame["gift"].to_list() == [None, None, "true", "false"]
    assert frame["odd"].to_list() == [None, None, str(2**64), "text"]


@pytest.mark.parametrize("types", [[], ["view", "cart"]])
def test_an_archive_is_prepared_as_it_is(tmp_path: Path, types: list[str]) -> None:
    (tmp_path / "archive").mkdir()
    for file in range(2):
        numbers = range(file * 100, file * 100 + 100)
        rows = [
            (
                f"u{number // 20}",
                {"item_id": number % 7 if file else f"i{number % 7}", "timestamp": 1_700_000_000_000 + number * 60_000}
                | ({"event_type": types[number % 2]} if types else {}),
            )
            for number in numbers
        ]
        (tmp_path / "archive" / f"{file}.parquet").write_bytes(parquet_of(rows))
    prepared = read(str(tmp_path / "archive"), {}, "auto", None, None, preparing(tmp_path / "prepared"))
    assert len(prepared.item_index) == 200 and len(prepared.offsets) == 11
    assert prepared.num_items == 14 and (sorted(prepared.event_types) == sorted(types) if types else True)


def test_dead_letters_keep_the_value_as_it_came() -> None:
    dead = [(Message("p-0", offset(n), value, 1), "why") for n, value in enumerate((b"{", b"\xff", None))]
    rows = [json.loads(line) for line in lines_of(dead).splitlines()]
    assert [row.get("value") for row in rows] == ["{", None, ""] and rows[1]["value_base64"] == "/w=="
    assert rows[0]["reason"] == "why" and rows[2]["offset"] == offset(2)
