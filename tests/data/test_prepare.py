"""From files to a prepared directory: forms, accounts, caching, refusals."""

import datetime as dt
import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Prepare

from twotower.data import prepare as prepare_module
from twotower.data import splits
from twotower.errors import UserError
from twotower.schema import Prepared, open_prepared

PREDEFINED = partial(splits.predefined, validation_fraction=0.25)
MINUTE = 60_000


def log(path: Path, **columns: Any) -> Path:
    """Six sessions, one after the other, of three events each; columns can be added or replaced."""
    content = {
        "session_id": np.repeat([f"s{i}" for i in range(6)], 3).tolist(),
        "item_id": [1, 2, 3, 2, 3, 1, 3, 1, 2, 1, 1, 2, 3, 3, 1, 2, 2, 3],
        "timestamp": (1_700_000_000_000 + np.arange(18) * 40 * MINUTE).tolist(),
    }
    pl.DataFrame({k: v for k, v in (content | columns).items() if v is not None}, strict=False).write_parquet(path)
    return path


def stamps(directory: Path) -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in sorted(directory.rglob("*"))}


def arrays(prepared: Prepared) -> dict[str, list[int]]:
    names = ("item_index", "event_type", "timestamp", "offsets", "train_end", "validation_end")
    return {name: getattr(prepared, name).tolist() for name in names}


# A case worked by hand


def test_every_row_is_accounted_for(prepare: Prepare, tmp_path: Path) -> None:
    rows = [  # session, item, time, type
        ("b", "pear", 2, "view"),
        ("b", "fig", 1, "cart"),
        ("a", "fig", 3, "view"),
        ("a", "fig", 3, "view"),  # a repetition
        ("a", "pear", 3, "view"),  # the same moment: after the row above
        ("a", None, 4, "view"),  # no item
        (None, "fig", 4, "view"),  # no session
        ("a", "fig", None, "view"),  # no time
        ("a", "fig", -4, "view"),  # negative
        ("a", "fig", 5, None),  # no type
        ("c", "fig", 9, "view"),  # alone
        ("d", "pear", 20, "view"),
        ("d", "new", 21, "view"),  # an item of the test alone
        ("d", "fig", 22, "buy"),
        ("e", "new", 23, "view"),  # an item of the test alone
        ("e", "fig", 24, "view"),  # left alone
    ]
    path = tmp_path / "shop.parquet"
    schema = ["session_id", "item_id", "timestamp", "event_type"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    split = partial(splits.temporal, test_fraction=0.5, validation_fraction=0.5)
    directory = prepare(path, split)
    prepared = open_prepared(directory)
    assert directory.name.startswith("shop-")
    assert pl.read_parquet(directory / "catalogue.parquet").rows() == [("fig", 1), ("pear", 1)]
    assert prepared.event_types == ["buy", "cart", "view"]
    assert arrays(prepared) == {
        "item_index": [1, 2, 1, 2, 2, 1],
        "event_type": [2, 2, 1, 2, 2, 0],
        "timestamp": [3, 3, 1, 2, 20, 22],
        "offsets": [0, 2, 4, 6],
        "train_end": [0, 4, 4],  # b ends first and trains, a validates, d and e test
        "validation_end": [2, 4, 4],
    }
    manifest = prepared.manifest
    assert manifest["rows"] == {
        "read": 16,
        "kept": 6,
        "dropped": {
            "no item_id": 1,
            "no session_id": 1,
            "no event_type": 1,
            "no readable timestamp": 1,
            "negative timestamp": 1,
            "repetition of an identical row": 1,
            "only event of its session": 1,
            "test event of an item that no earlier event has": 2,
            "left alone in its session": 1,
        },
    }
    assert manifest["split"] == {
        "kind": "temporal",
        "test_start": 22,
        "validation_start": 3,
        "events": {"train": 2, "validation": 2, "test": 2},
        "test_events_outside_catalogue": 2 / 5,
    }
    assert manifest["sessions"] == {"count": 3, "source": "the session column"}
    assert manifest["timestamp_unit"] == "ordinal"
    text = prepare_module.describe(manifest)
    assert "rows read 16, kept 6, dropped 10" in text
    assert "dropped 2: test event of an item that no earlier event has" in text


def test_training_events_do_not_go_because_of_the_test(prepare: Prepare, tmp_path: Path) -> None:
    """A session whose test event has an unknown item keeps its training event, which the catalogue counts."""
    rows = [("a", 1, 1, "train"), ("a", 2, 2, "train"), ("b", 3, 3, "train"), ("b", 9, 4, "test")]
    rows += [("c", 1, 5, "validation"), ("c", 2, 6, "validation"), ("d", 2, 7, "test"), ("d", 3, 8, "test")]
    path = tmp_path / "a.parquet"
    columns = ["session_id", "item_id", "timestamp", "split"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(path)
    directory = prepare(path, PREDEFINED)
    prepared = open_prepared(directory)
    assert prepared.item_index.tolist() == [1, 2, 3, 1, 2, 2, 3]
    assert prepared.offsets.tolist() == [0, 2, 3, 5, 7]
    assert prepared.train_end.tolist() == [2, 3, 3, 5]
    assert pl.read_parquet(directory / "catalogue.parquet").rows() == [(1, 1), (2, 1), (3, 1)]


# One log in many forms


def test_every_unit_gives_the_same_arrays(prepare: Prepare, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    user = random.integers(0, 8, 300)
    micro = 1_700_000_000_000_000 + random.integers(0, 200_000, 300) * 250_000  # quarters of a second, 14 hours
    utc = [dt.datetime.fromtimestamp(t / 1e6, dt.UTC) for t in micro.tolist()]
    tokyo = dt.timezone(dt.timedelta(hours=9))
    forms: dict[str, Any] = {
        "us": micro,
        "ms": micro // 1000,
        "ns": micro * 1000,
        "float s": micro / 1e6,
        "float ms": micro / 1e3,
        "text s": [f"{t / 1e6:.2f}" for t in micro.tolist()],
        "text ms": [str(t // 1000) for t in micro.tolist()],
        "datetime": utc,
        "naive": [t.replace(tzinfo=None) for t in utc],
        "ISO": [t.isoformat().replace("+00:00", "Z") for t in utc],
        "ISO naive": [str(t.replace(tzinfo=None)) for t in utc],
        "ISO zone": [t.astimezone(tokyo).isoformat() for t in utc],
    }
    found = {}
    for name, values in forms.items():
        frame = pl.DataFrame({"user_id": user, "item_id": np.arange(300) % 20, "timestamp": values})
        frame.write_parquet(tmp_path / f"{name}.parquet")
        found[name] = arrays(open_prepared(prepare(tmp_path / f"{name}.parquet")))
    assert len(found["us"]["offsets"]) > 20
    assert min(found["us"]["timestamp"]) >= 1_700_000_000_000
    for name, content in found.items():
        assert content == found["us"], name


def test_seconds_dates_and_explicit_units(prepare: Prepare, tmp_path: Path) -> None:
    days = [dt.date(2025, 1, 1) + dt.timedelta(days=i) for i in range(18)]
    seconds = [int(dt.datetime(d.year, d.month, d.day, tzinfo=dt.UTC).timestamp()) for d in days]
    reference = [1000 * s for s in seconds]
    for name, values, unit in [
        ("dates", days, "auto"),
        ("ISO dates", [str(d) for d in days], "auto"),
        ("seconds", seconds, "auto"),
        ("said", seconds, "s"),
        ("said ms", reference, "ms"),
    ]:
        path = log(tmp_path / f"{name}.parquet", timestamp=values)
        assert open_prepared(prepare(path, timestamp_unit=unit)).timestamp.tolist() == reference
    path = log(tmp_path / "seconds.parquet", timestamp=seconds)
    prepared = open_prepared(prepare(path, timestamp_unit="ordinal"))
    assert prepared.timestamp.tolist() == seconds
    assert prepared.manifest["timestamp_unit"] == "ordinal"


def test_a_gap_cuts_where_it_is_longer(prepare: Prepare, tmp_path: Path) -> None:
    minutes = [0, 30, 60, 90.001, 95, 300, 301, 500, 501, 502]
    times = [1_700_000_000_000 + int(m * MINUTE) for m in minutes]
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": [7] * 10, "item_id": [1, 2] * 5, "timestamp": times}).write_parquet(path)
    prepared = open_prepared(prepare(path))
    assert prepared.offsets.tolist() == [0, 3, 5, 7, 10]
    assert prepared.manifest["sessions"]["source"] == "users' events, cut by gaps of over 30 minutes"
    assert open_prepared(prepare(path, session_gap_minutes=31)).offsets.tolist() == [0, 5, 7, 10]
    whole = open_prepared(prepare(path, splits.leave_one_out, session_gap_minutes=None))
    assert whole.offsets.tolist() == [0, 10]
    assert (whole.train_end.tolist(), whole.validation_end.tolist()) == ([8], [9])


def test_the_session_column_decides_and_visits_may_have_no_user(prepare: Prepare, tmp_path: Path) -> None:
    prepared = open_prepared(prepare(log(tmp_path / "a.parquet", user_id=[None, 1, 2] * 6)))
    assert prepared.offsets.tolist() == [0, 3, 6, 9, 12, 15, 18]


def test_file_order_breaks_ties_across_files(prepare: Prepare, tmp_path: Path) -> None:
    for number in range(3):
        items = [(number * 7 + i) % 20 for i in range(7)]
        events = {
            "user_id": [1] * 7,
            "item_id": items,
            "timestamp": [5] * 7,
            "event_type": [f"type {number}"] * 7,
        }
        frame = pl.DataFrame(events)
        frame.write_parquet(tmp_path / f"{number}.parquet")
    prepared = open_prepared(prepare(tmp_path / "*.parquet", splits.leave_one_out, session_gap_minutes=None))
    assert prepared.item_index.tolist() == [*range(1, 21), 1]


def test_the_result_does_not_depend_on_the_thread(prepare: Prepare, tmp_path: Path) -> None:
    """Ties by the thousand, over more rows than one chunk of work has."""
    random = np.random.default_rng(0)
    size = 200_000
    frame = pl.DataFrame(
        {
            "session_id": random.integers(0, 5000, size),
            "item_id": random.integers(0, 500, size),
            "timestamp": random.integers(0, 50, size),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    rows = [*zip(*(frame[c].to_list() for c in frame.columns), strict=True)]
    rows = sorted(dict.fromkeys(rows), key=lambda r: (r[0], r[2]))  # Python's sort is stable
    prepared = open_prepared(prepare(tmp_path / "a.parquet", splits.leave_one_out))
    assert prepared.item_index.tolist() == [item + 1 for _, item, _ in rows]


# Once


def test_the_second_run_uses_the_first_ones_directory(
    prepare: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = log(tmp_path / "a.parquet")
    first = prepare(path)
    before = stamps(tmp_path)
    assert "prepared already" not in caplog.text
    assert prepare(path) == first
    assert f"prepared already: {first}" in caplog.text
    assert stamps(tmp_path) == before


def test_another_input_or_setting_makes_another_directory(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet", split=["train"] * 12 + ["test"] * 6)
    directories = [
        prepare(path),
        prepare(path, timestamp_unit="ms"),
        prepare(path, session_gap_minutes=31),
        prepare(path, PREDEFINED),
        prepare(path, partial(splits.temporal, test_fraction=0.3, validation_fraction=0.25)),
        prepare(path, columns={"event_type": "split"}),
    ]
    log(path, item_id=[1, 2] * 9)
    directories.append(prepare(path))
    os.utime(path, ns=(0, 0))
    directories.append(prepare(path))
    log(tmp_path / "b.parquet")
    directories.append(prepare(tmp_path / "b.parquet"))
    assert len(set(directories)) == len(directories)
    assert sorted(p.name for p in (tmp_path / "prepared").iterdir()) == sorted(p.name for p in directories)


def test_the_name_is_fit_for_a_command_line(prepare: Prepare, tmp_path: Path) -> None:
    for number in range(2):
        log(tmp_path / f"log {number}=a.parquet")
    assert prepare(tmp_path / "log [0-1]*.parquet").name.startswith("log0-1-")
    assert prepare(tmp_path / "*.parquet").name.startswith("events-")


def test_a_crash_leaves_nothing(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path, *_: Any) -> None:
        (directory / "half").write_text("")
        raise OSError("the disk is full")

    path = log(tmp_path / "a.parquet")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr(prepare_module, "write_prepared", fail)
        prepare(path)
    assert list((tmp_path / "prepared").iterdir()) == []
    open_prepared(prepare(path))


def test_two_processes_may_prepare_the_same(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = log(tmp_path / "a.parquet"), prepare_module.write_prepared
    done: list[Path] = []

    def write_slowly(*args: Any) -> None:
        monkeypatch.setattr(prepare_module, "write_prepared", write)
        done.append(prepare(path))  # the other process does all of its work here
        write(*args)

    monkeypatch.setattr(prepare_module, "write_prepared", write_slowly)
    assert prepare(path) == done[0]
    assert list((tmp_path / "prepared").iterdir()) == done


def test_a_damaged_directory_is_named(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet")
    directory = prepare(path)
    (directory / "offsets.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"offsets\.npy is damaged .*; delete .* and prepare the events again"):
        prepare(path)


def test_the_manifest_keeps_the_settings(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet")
    manifest = json.loads((prepare(path) / "manifest.json").read_text())
    assert manifest["settings"]["split"] == {
        "name": "temporal", "test_fraction": 0.25, "validation_fraction": 0.25,
    }  # fmt: skip
    assert manifest["settings"]["files"] == [[str(path), path.stat().st_size, path.stat().st_mtime_ns]]


# Refusals


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sessions of length one": ({"session_id": list(range(18))}, {}, "each session has one event"),
    "too small a gap": (
        {"session_id": None, "user_id": [1] * 18},
        {"session_gap_minutes": 5},
        "each session has one event.*is data.session_gap_minutes too small",
    ),
    "one item": ({"item_id": [5] * 18}, {}, "1 different items; ranking needs at least 2"),
    "no items": ({"item_id": [None] * 18}, {}, "none of the 18 rows can be used: 18 no item_id"),
    "no times": ({"timestamp": [None] * 18}, {}, "none of the 18 rows can be used: 18 no readable timestamp"),
    "negative times": ({"timestamp": range(-20, -2)}, {}, "none of the 18 rows .*: 18 negative timestamp"),
    "text times": ({"timestamp": ["then"] * 18}, {}, "no timestamp can be read, the first is 'then'"),
    "no sessions": ({"session_id": None}, {}, "neither a session nor a user column.*user_id=NAME"),
    "ordinal gap": (
        {"session_id": None, "user_id": [1] * 18, "timestamp": range(18)},
        {},
        "no unit, so a gap in minutes can't cut sessions",
    ),
    "negative gap": ({"session_id": None, "user_id": [1] * 18}, {"session_gap_minutes": -1}, "above 0"),
    "text gap": ({"session_id": None, "user_id": [1] * 18}, {"session_gap_minutes": "x"}, "a number above 0"),
    "unit": ({}, {"timestamp_unit": "min"}, "data.timestamp_unit=min; expected auto, s, ms"),
    "no split column": ({}, {"split": PREDEFINED}, "needs a split column: data.columns.split=NAME"),
    "unknown split": (
        {"split": ["train"] * 9 + ["hold-out"] * 9},
        {"split": PREDEFINED},
        "the split column holds 'hold-out'; expected train, validation or test",
    ),
    "no test": (
        {"split": ["train"] * 18},
        {"split": PREDEFINED},
        "split=predefined leaves events of .*'test': 0.*expected some in each part",
    ),
    "unknown test": (
        {"split": ["train"] * 15 + ["test"] * 3, "item_id": [1, 2, 3] * 5 + [7, 8, 9]},
        {"split": PREDEFINED},
        "'test': 0.*Dropped: 3 test event of an item that no earlier event has",
    ),
    "short sessions": ({"session_id": [*range(9)] * 2}, {"split": splits.leave_one_out}, "'test': 0"),
    "one moment": ({"timestamp": [5] * 18}, {}, "of 6 sessions none ends before the test window"),
    "many types": (
        {"event_type": [str(i) for i in range(300)], "item_id": [1, 2] * 150, "timestamp": range(300),
         "session_id": [i // 3 for i in range(300)]},
        {},
        "300 event types, expected up to 255",
    ),
    "misspelt role": ({}, {"columns": {"itm_id": "sku"}}, "did you mean 'item_id'"),
    "misspelt column": ({}, {"columns": {"item_id": "itemid"}}, "no column 'itemid'.*did you mean 'item_id'"),
    "a number as a name": ({}, {"columns": {"item_id": 3}}, "no column '3'"),
    "list ids": ({"item_id": [[1]] * 18}, {}, "item_id holds List"),
    "no rows": ({"session_id": [], "item_id": [], "timestamp": []}, {}, "no rows in 1 file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_leave_nothing(prepare: Prepare, tmp_path: Path, case: str) -> None:
    columns, settings, message = REFUSALS[case]
    path = log(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=message):
        prepare(path, **settings)
    assert not list(tmp_path.glob("prepared/*")) and not list(tmp_path.glob("prepared/.*"))


def test_a_header_without_rows(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("session_id,item_id,timestamp\n")
    with pytest.raises(UserError, match=r"a\.csv: no rows in 1 file\(s\), only column names"):
        prepare(tmp_path / "a.csv")


def test_prepared_root_is_a_file(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("")
    with pytest.raises(UserError, match="prepared can't hold folders"):
        prepare(log(tmp_path / "a.parquet"))
