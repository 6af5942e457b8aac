"""What holds of every table of events, whatever is in it, in which files and with how much memory.

Tables are drawn by hypothesis. What should become of each row is told by the plain loops of test_prepare_oracle.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from test_prepare_oracle import MINUTE, SPLITS, Row, naive

from twotower.core.schema import ARRAYS, CATALOGUE_FILE, Prepared, input_file
from twotower.data.preparation import prepare
from twotower.data.readers import events

BEGIN = 1_700_000_000_000
MINUTES = 60
TYPES = ["view", "cart", "köp"]
ITEMS: dict[str, list[Any]] = {  # the anchors have the first three; many, so that some come in the test alone
    "whole": [7, 1, 20, 3, 100, *range(200, 210)],
    "text": ["é", "Z", "sku 1", "日本", "a\tb", "🛒", *"αβγδεζηθι"],
}
OWNERS: dict[str, list[Any]] = {"whole": [0, 5, 12], "text": ["ü", "u-1", "U-1"]}
COLUMNS = ("session_id", "user_id", "item_id", "timestamp", "event_type", "split", "consent")
PARTS = ("train", "validation", "test")
CONSENT = {True: "yes", False: "no", None: None}

ROWS_AT_ONCE = [1, 7, 30, 1000]  # memory: fewer rows than there are make several parts of them

Files = dict[str, list[Row]]  # by their names
properties = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Table:
    """Rows of events, and the settings to prepare them with."""

    rows: list[Row]
    split: str
    gap: float | None
    erase: list[str]


def anchors(owner: str, items: Sequence[Any], owners: str) -> list[Row]:
    """Sessions all over the time, so that every split has something of each part."""
    names: list[Any] = [f"anchor {i}" for i in range(10)] if owners == "text" else list(range(100, 110))
    return [
        {
            owner: name,
            "item_id": items[(number + step) % 3],
            "timestamp": BEGIN + MINUTE * (6 * number + step),
            "event_type": "view",
        }
        for number, name in enumerate(names)
        for step in range(4)
    ]


@st.composite
def tables(draw: Callable[[SearchStrategy[Any]], Any]) -> Table:
    """Small tables: ids of both kinds, nulls, repetitions, equal and negative timestamps."""
    owner, split = draw(st.sampled_from(["session_id", "user_id"])), draw(st.sampled_from(list(SPLITS)))
    item_kind, owner_kind = draw(st.sampled_from(list(ITEMS))), draw(st.sampled_from(list(OWNERS)))
    users_too = owner == "session_id" and draw(st.booleans())
    consented = draw(st.booleans())
    holes = draw(st.sampled_from([True, True, False]))

    def maybe(values: list[Any]) -> SearchStrategy[Any]:
        return st.sampled_from([*values * 2, None]) if holes else st.sampled_from(values)

    cells = st.tuples(
        maybe(OWNERS[owner_kind]),
        maybe(ITEMS[item_kind]),
        maybe([*range(0, MINUTES, 6), 57, 58, -1]),  # few, so that many are equal
        maybe(TYPES),
        st.sampled_from(["user 1", "user 2"]),
        st.sampled_from([True, True, True, False, None]),
        st.sampled_from([1, 1, 1, 2]),  # how often the row comes
    )
    rows = anchors(owner, ITEMS[item_kind], owner_kind)
    for key, item, moment, kind, user, consent, times in draw(st.lists(cells, min_size=5, max_size=40)):
        time = None if moment is None else -5 if moment < 0 else BEGIN + MINUTE * moment
        row = {owner: key, "item_id": item, "timestamp": time, "event_type": kind, "user": user, "consent": consent}
        rows += [dict(row) for _ in range(times)]
    for row in rows:
        user, consent = row.pop("user", "user 3"), row.pop("consent", True)
        if users_too:
            row["user_id"] = user
        if consented:
            row["consent"] = CONSENT[consent]
        if split == "predefined":
            minutes = ((row["timestamp"] or 0) - BEGIN) // MINUTE
            row["split"] = "train" if minutes < MINUTES // 2 else "valid" if minutes < MINUTES * 3 // 4 else "Test"
    erase = draw(st.sampled_from([[], ["user 1"], ["user 2", "user 1"]])) if users_too else []
    return Table(rows, split, draw(st.sampled_from([30, 2.5, None])), erase)


def drawn_files(data: st.DataObject, table: Table, together: Sequence[Hashable] | None = None) -> Files:
    """The rows in up to three files, in their order; rows with the same value in `together` in the same file."""
    together = together or range(len(table.rows))
    groups = list(dict.fromkeys(together))
    name = st.sampled_from(["part-0", "part-1", "part-2"])
    of = dict(zip(groups, data.draw(st.lists(name, min_size=len(groups), max_size=len(groups))), strict=True))
    files: Files = {"part-1": [], "part-0": [], "part-2": []}
    for row, group in zip(table.rows, together, strict=True):
        files[of[group]].append(row)
    return files


def expected(table: Table, files: Files) -> tuple[list[list[Row]], dict[Any, int]]:
    """The sessions and the catalogue by the plain loops; each row's "fate" is written into it."""
    for rows in files.values():
        for place, row in enumerate(rows):
            row["place"] = place
    left = []
    for row in table.rows:
        if row.get("user_id") is not None and str(row["user_id"]) in table.erase:
            row["fate"] = "erased at the user's request"
        elif row.get("consent", "yes") != "yes":
            row["fate"] = "no consent"
        else:
            left.append(row)
    return naive(left, table.split, "ms", table.gap)


def write(rows: Sequence[Row], path: Path) -> None:
    """One Parquet file; a column of nulls alone keeps its type."""
    frame = pl.DataFrame({name: [row[name] for row in rows] for name in rows[0] if name in COLUMNS}, strict=False)
    frame.with_columns(pl.col("event_type", "^consent$", "^split$").cast(pl.String)).write_parquet(path)


def prepared(table: Table, files: Files, folder: Path) -> Prepared:
    """The directory that the package prepares of rows in files of these names."""
    source = folder / "events"
    source.mkdir(parents=True)
    for name, rows in files.items():
        if rows:
            write(rows, source / f"{name}.parquet")
    erase = None
    if table.erase:
        erase = folder / "erase.txt"
        erase.write_text("\n".join(table.erase), encoding="utf-8")
    return events.read(
        path=str(source),
        columns={},
        timestamp_unit="ms",
        items=None,
        users=None,
        prepare=prepare.Preparation(
            session_gap_minutes=table.gap,
            time_zone="UTC",
            bounce=None,
            features={"items": {}, "events": {}},
            min_users_per_item=1,
            until=None,
            erase=str(erase) if erase else None,
            memory_gib=2,
            split=SPLITS[table.split],
            prepared_root=str(folder / "prepared"),
        ),
    )


def content(directory: Prepared) -> dict[str, bytes]:
    """All that is learnt from, byte by byte; and what became of the rows."""
    names = [*(f"{name}.npy" for name in ARRAYS), *map(input_file, directory.inputs), CATALOGUE_FILE]
    found = {name: (directory.path / name).read_bytes() for name in names}
    rows = directory.manifest["rows"]
    told = [rows["read"], rows["kept"], sorted(rows["dropped"].items()), directory.manifest["split"]]
    return found | {"rows": repr(told).encode(), "fingerprint": directory.manifest["fingerprint"].encode()}


@pytest.mark.slow
@properties
@given(tables(), st.data())
def test_rows_sessions_and_splits_are_those_of_the_loops(table: Table, data: st.DataObject) -> None:
    files = drawn_files(data, table)
    sessions, catalogue = expected(table, files)
    with tempfile.TemporaryDirectory() as folder:
        got = prepared(table, files, Path(folder))
        check_rows(table, got.manifest["rows"])
        check_sessions(got, sessions, catalogue)
        check_split(got, sessions)


def check_rows(table: Table, rows: dict[str, Any]) -> None:
    """Each row is kept or dropped for one reason."""
    fates = Counter(row["fate"] for row in table.rows)
    kept = fates.pop("kept")
    assert rows["read"] == len(table.rows)
    assert rows["kept"] == kept
    assert {reason: count for reason, count in rows["dropped"].items() if count} == dict(fates)
    assert rows["kept"] + sum(rows["dropped"].values()) == rows["read"]


def check_sessions(got: Prepared, sessions: list[list[Row]], catalogue: dict[Any, Any]) -> None:
    """Sessions run by time, and equal times keep their order."""
    ids = pl.read_parquet(got.path / CATALOGUE_FILE)["item_id"].to_list()
    events_ = list(zip(got.item_index.tolist(), got.event_type.tolist(), got.timestamp.tolist(), strict=True))
    bounds, types, untested = got.offsets.tolist(), got.event_types, got.validation_end == got.offsets[1:]
    assert ids == list(catalogue)
    found = [tuple((ids[i - 1], types[k], t) for i, k, t in events_[a:b]) for a, b in pairwise(bounds)]
    begins = [session[0][2] for session, whole in zip(found, untested, strict=True) if whole]
    assert begins == sorted(begins)  # of a tested session, events before its first one may have been dropped
    assert all(x[2] <= y[2] for session in found for x, y in pairwise(session))
    wanted = [tuple((r["item_id"], r["event_type"], r["time"]) for r in session) for session in sessions]
    assert Counter(found) == Counter(wanted)


def check_split(got: Prepared, sessions: list[list[Row]]) -> None:
    """The parts of a session follow one another, and in a temporal split an event's time decides on its part."""
    bounds = np.stack([got.offsets[:-1], got.train_end, got.validation_end, got.offsets[1:]], axis=1)
    time, split, sizes = np.array(got.timestamp), got.manifest["split"], np.diff(bounds, axis=1)
    assert (sizes >= 0).all()
    assert sizes.sum() == len(time)
    wanted = Counter(row["part"] for session in sessions for row in session)
    assert dict(zip(PARTS, sizes.sum(axis=0).tolist(), strict=True)) == wanted
    assert split["events"] == wanted
    found = zip(time[bounds[:, 0]].tolist(), time[bounds[:, 3] - 1].tolist(), map(tuple, sizes.tolist()), strict=True)
    parts = [tuple(sum(r["part"] == p for r in session) for p in PARTS) for session in sessions]
    assert Counter(found) == Counter((s[0]["time"], s[-1]["time"], p) for s, p in zip(sessions, parts, strict=True))
    if split["kind"] == "temporal":
        part = np.repeat(np.tile([0, 1, 2], len(sizes)), sizes.ravel())
        assert (part == 0 + (time >= split["validation_start"]) + (time >= split["test_start"])).all()


@pytest.mark.slow
@properties
@given(tables(), st.data())
def test_same_for_any_files_of_the_same_rows_and_any_memory(table: Table, data: st.DataObject) -> None:
    moment = [(row.get("session_id", row.get("user_id")), row["timestamp"]) for row in table.rows]
    files = drawn_files(data, table, moment)  # rows of one moment of a session stay in one file, in their order
    rows_at_once = data.draw(st.sampled_from(ROWS_AT_ONCE))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole = content(prepared(table, {"log": table.rows}, Path(folder, "a")))
        patch.setattr(prepare, "_rows_at_once", lambda memory_gib: rows_at_once)
        assert content(prepared(table, files, Path(folder, "b"))) == whole


@pytest.mark.slow
@properties
@given(tables(), st.data())
def test_same_for_any_names_of_files_even_where_equal_times_are_in_several(table: Table, data: st.DataObject) -> None:
    files = drawn_files(data, table)
    renamed = dict(zip(data.draw(st.permutations(list(files))), files.values(), strict=True))
    rows_at_once = data.draw(st.sampled_from(ROWS_AT_ONCE))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        one = content(prepared(table, files, Path(folder, "a")))
        patch.setattr(prepare, "_rows_at_once", lambda memory_gib: rows_at_once)
        assert content(prepared(table, renamed, Path(folder, "b"))) == one
