"""Several hundred random logs, prepared by the package and by plain Python loops that share nothing with it.

The loops follow the stated rules row by row and note what became of each: kept, or dropped for one reason.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import Prepare

from twotower.core.errors import UserError
from twotower.core.schema import open_prepared
from twotower.data.preparation import splits

Row = dict[str, Any]
Catalogued = tuple[int, int | None]  # training events, days
MINUTE = 60_000
CASES, BLOCKS = 400, 8
SPLITS: dict[str, Callable[..., Any]] = {
    "temporal": partial(splits.temporal, test_fraction=0.3, validation_fraction=0.4),
    "predefined": partial(splits.predefined, validation_fraction=0.4),
    "leave_one_out": splits.leave_one_out,
}


class Refused(Exception):
    """Nothing can be prepared of this log."""


def random_log(rng: random.Random) -> tuple[list[Row], str, str, float | None]:
    """Rows, the split's name, the timestamps' unit, the gap in minutes."""
    split, unit = rng.choice(list(SPLITS)), rng.choice(["ms", "s", "ordinal"])
    by_session = unit == "ordinal" or rng.random() < 0.5
    ids: list[Any] = rng.choice([[3, 1, 2, 10, 20], ["b", "a", "010", "10", "é", "z"], [7, 8]])
    owners: list[Any] = rng.choice([range(8), [f"u{i}" for i in range(12)], range(3)])
    types = rng.choice([None, ["view", "buy"], [2, 1]])
    spoil = rng.choice([0.0, 0.0, 0.05, 0.2])
    moments, begin = (
        rng.choice([5, 30, 400]),
        {"ms": 1_700_000_000_000, "s": 1_700_000_000, "ordinal": 0}[unit],
    )
    scale = {"ms": 5 * MINUTE, "s": 300, "ordinal": 1}[unit]
    labelled = (split == "predefined" and rng.random() < 0.97) or rng.random() < 0.2
    words = ["train", "train", "train", rng.choice(["train", "valid", "VALID"]), "Test", "test"]
    words[5] = rng.choice([*["test"] * 15, "other"])
    disorder = rng.choice([0, 0, 0, 0.01])
    rows: list[Row] = []
    for _ in range(rng.choice([0, 3, 12, 30, 60, 100])):
        moment = rng.randrange(moments)
        row: Row = {
            "session_id" if by_session else "user_id": rng.choice(owners),
            "item_id": rng.choice(ids),
            "timestamp": begin + scale * moment,
        }
        if types:
            row["event_type"] = rng.choice(types)
        if labelled:
            # Mostly in the order of time, as it should be; the last words are spellings of the same.
            moment = rng.randrange(moments) if rng.random() < disorder else moment
            row["split"] = words[len(words) * moment // moments]
        if rng.random() < spoil:
            row[rng.choice(list(row))] = None
        if rng.random() < spoil:
            row["timestamp"] = -rng.randrange(1, 100)
        rows.append(row)
        if rng.random() < spoil:
            rows.append(dict(row))
    keys = {key for row in rows for key in row}
    return (
        [{key: row.get(key) for key in sorted(keys)} for row in rows],
        split,
        unit,
        rng.choice([30, 7.5, None]),
    )


def start_of_latest(sessions: list[list[Row]], fraction: float) -> int:
    """Where the latest `fraction` of sessions that train ends, or of the rows, where half of those began before."""
    spans = [[row["time"] for row in session] for session in sessions if all(r["part"] == "train" for r in session)]
    times = sorted(row["time"] for session in sessions for row in session if row["part"] == "train")
    if not times:
        raise Refused
    if spans:
        start = sorted(span[-1] for span in spans)[-max(1, round(len(spans) * fraction))]
        latest = [span for span in spans if span[-1] >= start]
        if len(latest) < len(spans) and sum(span[0] < start for span in latest) * 2 < len(latest):
            return start
    start = times[-max(1, round(len(times) * fraction))]
    if start == times[0]:
        raise Refused
    return start


def label(sessions: list[list[Row]], split: str) -> None:
    """Write into each row's "part" what it is for."""
    for session in sessions:
        for row in session:
            row["part"] = "train"
    rows = [row for session in sessions for row in session]
    if split == "temporal":
        for part, fraction in (("test", 0.3), ("validation", 0.4)):
            training = [row for row in rows if row["part"] == "train"]
            start = start_of_latest(sessions, fraction)
            for row in training:
                if row["time"] >= start:
                    row["part"] = part
    elif split == "leave_one_out":
        for session in sessions:
            if len(session) > 2:
                session[-2]["part"], session[-1]["part"] = "validation", "test"
    else:
        words = {"train": "train", "valid": "validation", "test": "test"}
        for session in sessions:
            for row in session:
                row["part"] = words[row["split"].lower()]
            order = [["train", "validation", "test"].index(row["part"]) for row in session]
            if order != sorted(order):
                raise Refused
        if not any(row["part"] == "validation" for session in sessions for row in session):
            training = [row for row in rows if row["part"] == "train"]
            start = start_of_latest(sessions, 0.4)
            for row in training:
                if row["time"] >= start:
                    row["part"] = "validation"
    for part in ("train", "validation", "test"):
        if not any(row["part"] == part for session in sessions for row in session[1:]):
            raise Refused


def in_order(row: Row) -> tuple[Any, ...]:
    """Of equal times the first in its file comes first; where files differ, the smaller item, then the smaller type."""
    return row["time"], row["place"], row["item_id"], str(row.get("event_type"))


def naive(rows: list[Row], split: str, unit: str, gap: float | None) -> tuple[list[list[Row]], dict[Any, Catalogued]]:
    """The kept sessions, the catalogue's training counts and ages; each row's "fate" says what became of it."""
    if not rows:
        raise Refused
    names = [n for n in ("item_id", "session_id", "user_id", "event_type") if n in rows[0]]
    names += ["split"] if split == "predefined" and "split" in rows[0] else []
    if split == "predefined" and "split" not in rows[0]:
        raise Refused
    for row in rows:
        row["fate"] = "kept"
        missing = [name for name in names if row[name] is None]
        if missing:
            row["fate"] = f"no {missing[0]}"
        elif row["timestamp"] is None:
            row["fate"] = "no readable timestamp"
        elif row["timestamp"] < 0:
            row["fate"] = "negative timestamp"

    words = {row["split"].lower() for row in rows if row["fate"] == "kept"} if split == "predefined" else set()
    if words - {"train", "valid", "test"}:
        raise Refused
    owner = "session_id" if "session_id" in rows[0] else "user_id"
    owned = defaultdict(list)
    for row in rows:
        if row["fate"] == "kept":
            row["time"] = row["timestamp"] * (1000 if unit == "s" else 1)
            owned[row[owner]].append(row)
    sessions: list[list[Row]] = []
    for key in sorted(owned):
        previous, seen = None, set()
        for row in sorted(owned[key], key=in_order):
            content = tuple(row[name] for name in [*names, "timestamp"])
            if content in seen:
                row["fate"] = "duplicate of another row"
                continue
            seen.add(content)
            paused = owner == "user_id" and gap and previous and row["time"] - previous["time"] > gap * MINUTE
            if previous is None or paused:
                sessions.append([])
            sessions[-1].append(row)
            previous = row
    for session in sessions:
        if len(session) == 1:
            session[0]["fate"] = "only event of its session"
    sessions = [session for session in sessions if len(session) > 1]
    if not sessions:
        raise Refused
    before = None
    for session in sessions:  # a user's sessions lie together, by time
        for row in session:
            row["returning"] = 0 if owner == "session_id" else 1 + (row["user_id"] == before)
        before = session[0][owner]

    label(sessions, split)
    events = [row for session in sessions for row in session]
    known = {row["item_id"] for row in events if row["part"] != "test"}
    if len(known) < 2:
        raise Refused
    for session in sessions:
        for row in session:
            if row["item_id"] not in known:
                row["fate"] = "test event of an item outside the catalogue"
        left = [row for row in session if row["fate"] == "kept"]
        if len(left) == 1 and left[0]["part"] == "test":
            left[0]["fate"] = "only event left in its session"
    sessions = [[row for row in session if row["fate"] == "kept"] for session in sessions]
    kept = [row for session in sessions for row in session]
    if {row["part"] for row in kept} != {"train", "validation", "test"}:
        raise Refused
    trained = Counter(row["item_id"] for row in kept if row["part"] == "train")
    times = {item: [row["time"] for row in kept if row["item_id"] == item and row["part"] != "test"] for item in known}
    end = max(max(of_item) for of_item in times.values())
    age = {item: (end - min(of_item)) // (24 * 60 * MINUTE) for item, of_item in times.items()}
    catalogue = {item: (trained[item], None if unit == "ordinal" else age[item]) for item in sorted(known)}
    return [session for session in sessions if session], catalogue


def write(rows: list[Row], path: Path, rng: random.Random) -> Path:
    """As Parquet, JSON Lines, CSV, or two Parquet files."""
    form = rng.choice(["parquet", "jsonl", "csv", "parts"])
    columns = list(rows[0]) if rows else ["session_id", "item_id", "timestamp"]
    frame = pl.DataFrame({name: [row[name] for row in rows] for name in columns}, strict=False)
    path.mkdir()
    for place, row in enumerate(rows):
        row["place"] = place
    if form == "jsonl" and rows:
        frame.write_ndjson(path / "log.jsonl")
    elif form == "csv":
        frame.write_csv(path / "log.csv")
    elif form == "parts":
        cut = rng.randrange(frame.height + 1)
        first, second = rng.sample(["0", "1"], 2)  # the names of files decide on nothing
        frame[:cut].write_parquet(path / f"{first}.parquet")
        frame[cut:].write_parquet(path / f"{second}.parquet")
        for row in rows[cut:]:
            row["place"] -= cut
    else:
        frame.write_parquet(path / "log.parquet")
    return path


@pytest.mark.parametrize("block", [0, *(pytest.param(block, marks=pytest.mark.slow) for block in range(1, BLOCKS))])
def test_random_logs(prepare: Prepare, tmp_path: Path, block: int) -> None:
    done: Counter[str] = Counter()
    for case in range(block * CASES // BLOCKS, (block + 1) * CASES // BLOCKS):
        rng = random.Random(case)
        rows, split, unit, gap = random_log(rng)
        path = write(rows, tmp_path / f"{case}", rng)
        settings: dict[str, Any] = {"timestamp_unit": unit, "session_gap_minutes": gap}
        try:
            sessions, catalogue = naive(rows, split, unit, gap)
        except Refused:
            with pytest.raises(UserError):
                prepare(path, SPLITS[split], **settings)
            assert not list(tmp_path.glob(f"prepared/*{case}-*"))
            done["refused"] += 1
            continue
        directory = prepare(path, SPLITS[split], **settings)
        compare(directory, rows, sessions, catalogue)
        done[split] += 1
    assert min(done[name] for name in (*SPLITS, "refused")) >= 3, done


def compare(directory: Path, rows: list[Row], sessions: list[list[Row]], catalogue: dict[Any, Catalogued]) -> None:
    prepared = open_prepared(directory)
    manifest = prepared.manifest
    fates = Counter(row["fate"] for row in rows)
    kept = fates.pop("kept")
    assert manifest["rows"] == {"read": len(rows), "kept": kept, "dropped": dict(fates)}
    assert manifest["rows"]["read"] == manifest["rows"]["kept"] + sum(manifest["rows"]["dropped"].values())

    frame = pl.read_parquet(directory / "catalogue.parquet")
    assert {item: (count, age) for item, count, age in frame.rows()} == catalogue
    assert frame["item_id"].to_list() == list(catalogue)
    assert prepared.num_items == len(catalogue)

    events = [row for session in sessions for row in session]
    index = {item: row for row, item in enumerate(catalogue, start=1)}
    bounds = prepared.offsets.tolist()
    found = []
    for start, train_end, validation_end, stop, returning in zip(
        bounds[:-1], prepared.train_end, prepared.validation_end, bounds[1:], prepared.returning, strict=True
    ):
        words = ["train"] * (train_end - start) + ["validation"] * (validation_end - train_end)
        words += ["test"] * (stop - validation_end)
        types = [prepared.event_types[code] for code in prepared.event_type[start:stop]]
        columns = (prepared.timestamp[start:stop].tolist(), prepared.item_index[start:stop].tolist(), types, words)
        columns += ([int(returning)] * (stop - start),)
        found.append(list(zip(*columns, strict=True)))
    expected = [
        [
            (row["time"], index[row["item_id"]], str(row.get("event_type", "event")), row["part"], row["returning"])
            for row in session
        ]
        for session in sessions
    ]
    assert sorted(found) == sorted(expected)
    # In the order in which they began; a first event may be gone since, as one of an item that only the test has.
    if "test event of an item outside the catalogue" not in fates:
        assert [session[0][0] for session in found] == sorted(session[0][0] for session in found)

    parts = Counter(row["part"] for row in events)
    assert manifest["split"]["events"] == parts
    assert sum(count for count, _ in catalogue.values()) == parts["train"]
    tested = sum(row.get("part") == "test" for row in rows)
    outside = fates["test event of an item outside the catalogue"]
    assert manifest["split"]["test_events_outside_catalogue"] == pytest.approx(outside / tested)
    if manifest["split"]["kind"] == "temporal":
        start = manifest["split"]["test_start"]
        assert all((row["time"] < start) == (row["part"] != "test") for row in events)
        start = manifest["split"]["validation_start"]
        assert all((row["time"] < start) == (row["part"] == "train") for row in events)
