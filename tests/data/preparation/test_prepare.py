"""From files to a prepared directory: accounts, forms, inputs, privacy."""

import datetime as dt
import json
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from event_log import MINUTE, PREDEFINED, log
from preparing import Prepare

from twotower.audit.audit import require_sound
from twotower.core.errors import UserError
from twotower.core.schema import Prepared, open_prepared
from twotower.data.preparation import increment, splits
from twotower.data.preparation import prepare as prepare_module


def arrays(prepared: Prepared) -> dict[str, list[int]]:
    names = ("item_index", "event_type", "timestamp", "offsets", "train_end", "validation_end", "returning")
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
    assert pl.read_parquet(directory / "catalogue.parquet").rows() == [("fig", 1, None), ("pear", 1, None)]
    assert prepared.event_types == ["buy", "cart", "view"]
    assert arrays(prepared) == {
        "item_index": [1, 2, 1, 2, 2, 1],
        "event_type": [1, 2, 2, 2, 2, 0],
        "timestamp": [1, 2, 3, 3, 20, 22],
        "offsets": [0, 2, 4, 6],
        "train_end": [2, 2, 4],  # b trains, a validates, d validates and tests, and e tests
        "validation_end": [2, 4, 5],
        "returning": [0, 0, 0],
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
            "duplicate of another row": 1,
            "only event of its session": 1,
            "test event of an item outside the catalogue": 2,
            "only event left in its session": 1,
        },
    }
    assert manifest["split"] == {
        "kind": "temporal",
        "test_start": 21,
        "validation_start": 3,
        "events": {"train": 2, "validation": 3, "test": 1},
        "test_events_outside_catalogue": 2 / 4,
    }
    assert manifest["sessions"] == {"count": 3, "source": "the session column"}
    assert manifest["timestamp_unit"] == "ordinal"
    text = prepare_module.describe(manifest)
    assert "rows read 16, kept 6, dropped 10" in text
    assert "dropped 2: test event of an item outside the catalogue" in text


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
    assert pl.read_parquet(directory / "catalogue.parquet").rows() == [(1, 1, None), (2, 1, None), (3, 1, None)]


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


@pytest.mark.parametrize("bytes_per_row", [1, 4e7])
def test_users_return_in_any_part_of_the_events(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_per_row: float
) -> None:
    monkeypatch.setattr(prepare_module, "BYTES_PER_ROW", bytes_per_row)
    users = ["b", "b", "b", "a", "a", "c", None, "c", "c", "a", "b", None, None, None, None, "a", "b", "b"]
    prepared = open_prepared(prepare(log(tmp_path / "a.parquet", user_id=users)))
    assert prepared.returning.tolist() == [1, 1, 2, 2, 0, 2]


def tied(path: Path, names: list[str]) -> Path:
    """Three files of seven events of one user at one moment, and of one later event, under these names."""
    path.mkdir()
    for number, name in enumerate(names):
        items = [*((number * 7 + i) % 20 for i in range(7)), 0]
        frame = pl.DataFrame({"user_id": [1] * 8, "item_id": items, "timestamp": [5] * 7 + [6]})
        frame.write_parquet(path / f"{name}.parquet")
    return path


def test_ties_keep_the_order_of_their_file_whatever_its_name(prepare: Prepare, tmp_path: Path) -> None:
    found = []
    for folder, names in {"a": ["0", "1", "2"], "b": ["2", "0", "1"], "c": ["x", "w", "v"]}.items():
        path = tied(tmp_path / folder, names)
        prepared = open_prepared(prepare(path, splits.leave_one_out, session_gap_minutes=None))
        found.append(prepared.item_index.tolist())
    # The first rows of the three files, then the second ones; of those the smaller item first, and none twice.
    places = [sorted((number * 7 + i) % 20 + 1 for number in range(3)) for i in range(7)]
    assert found == [[*dict.fromkeys(item for row in places for item in row), 1]] * 3


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
    expected = [[item + 1 for _, item, _ in session] for _, session in groupby(rows, key=lambda r: r[0])]
    prepared = open_prepared(prepare(tmp_path / "a.parquet", splits.leave_one_out))
    found = [part.tolist() for part in np.split(prepared.item_index, prepared.offsets[1:-1])]
    assert sorted(found) == sorted(expected)
    starts = prepared.timestamp[prepared.offsets[:-1]]
    assert (np.diff(starts) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("bytes_per_row", [1e3, 1e6, 2e7])
def test_the_result_does_not_depend_on_the_memory(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_per_row: float
) -> None:
    """From one part to a hundred and more of them."""
    random = np.random.default_rng(0)
    columns = {
        "user_id": random.integers(0, 400, 3000),
        "item_id": random.integers(0, 50, 3000),
        "timestamp": 1_700_000_000_000 + random.integers(0, 500, 3000) * MINUTE,
        "event_type": random.choice(["view", "buy"], 3000),
        "device": random.choice(["phone", "desk", None], 3000),
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    settings: dict[str, Any] = {"features": {"events": {"device": {"kind": "categorical"}}}, "min_users_per_item": 2}
    reference = open_prepared(prepare(tmp_path / "a.parquet", **settings))
    (tmp_path / "b").mkdir()
    (tmp_path / "a.parquet").rename(tmp_path / "b" / "a.parquet")
    monkeypatch.setattr(prepare_module, "BYTES_PER_ROW", bytes_per_row)
    prepared = open_prepared(prepare(tmp_path / "b", **settings))
    assert prepared.manifest["fingerprint"] == reference.manifest["fingerprint"]


# Inputs, privacy


def test_event_inputs_are_told_of_every_event(prepare: Prepare, tmp_path: Path) -> None:
    rows = [  # session, item, time, type, device
        *[("a", i, 10 * i, "view", "phone") for i in (1, 2, 3)],
        *[("b", i, 1000 + 10 * i, "cart", None) for i in (1, 2, 3)],
        *[("c", i, 2000 + 10 * i, "view", "desk") for i in (1, 2, 3)],
        ("d", 1, 3000, "view", "phone"),
        ("d", 9, 3060, "view", "phone"),  # of an item that only the test has: the gap counts from it all the same
        ("d", 2, 3063, "cart", "watch"),
    ]
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp", "event_type", "device"], orient="row")
    frame.with_columns(pl.col("timestamp") * 1000 + 1_699_999_200_000).write_parquet(path)  # from 22:00 on, a Tuesday
    spec = {"device": {"kind": "categorical"}}
    prepared = open_prepared(prepare(path, features={"events": spec}, time_zone="Asia/Tokyo"))
    inputs = {name: codes.tolist() for name, codes in prepared.inputs.items()}
    assert inputs["event_type"] == [2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 1]  # cart, view
    gap = 1 + int(2 * np.log2(11))
    assert inputs["gap"] == [0, gap, gap] * 3 + [0, 1 + int(2 * np.log2(4))]
    assert set(inputs["hour"]) == {1 + 7}
    assert set(inputs["weekday"]) == {3}
    features = json.loads((prepared.path / "features.json").read_text())
    vocabulary = features["events"]["device"]["vocabulary"]
    assert sorted(vocabulary) == ["desk", "phone"]
    assert len(set(inputs["device"][3:6])) == 1 and inputs["device"][3] == 0
    assert inputs["device"][0] != inputs["device"][6] != 0
    assert inputs["device"][-1] not in (0, inputs["device"][0], inputs["device"][6])
    assert prepared.manifest["inputs"]["device"] == max(inputs["device"]) + 1 or 1 + 1 + 2
    assert features["time_zone"] == "Asia/Tokyo"


def test_a_view_left_soon_is_a_bounce(prepare: Prepare, tmp_path: Path) -> None:
    seconds = [0, 2, 60, 62, 200, 400] * 3
    sessions = np.repeat(["a", "b", "c"], 6)
    times = [1_700_000_000_000 + 1000 * (s + 10_000 * (i // 6)) for i, s in enumerate(seconds)]
    kinds = ["view", "view", "cart", "view", "view", "view"] * 3
    columns = {"session_id": sessions, "item_id": [1, 2, 3] * 6, "timestamp": times, "event_type": kinds}
    pl.DataFrame(columns).write_parquet(tmp_path / "a.parquet")
    prepared = open_prepared(prepare(tmp_path / "a.parquet", bounce={"event_type": "view", "seconds": 3}))
    assert prepared.event_types == ["bounce", "cart", "view"]
    assert prepared.event_type.tolist() == [0, 2, 1, 2, 2, 2] * 3
    assert (
        prepared.inputs["event_type"].tolist() == [3, 3, 2, 3, 3, 3] * 3
    )  # a model is not told before it can be known


def test_an_item_of_few_users_stays_out(prepare: Prepare, tmp_path: Path) -> None:
    rows = [(user, item, 100 * user + item) for user in range(8) for item in (1, 2, 3 + user % 4)]
    rows += [(0, 9, 5), (0, 9, 6), (7, 9, 790)]  # two events before the test, of one user
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.with_columns(pl.col("timestamp") + 10**9).write_parquet(path)
    settings: dict[str, Any] = {"session_gap_minutes": None, "timestamp_unit": "ordinal"}
    directory = prepare(path, min_users_per_item=2, **settings)
    kept = pl.read_parquet(directory / "catalogue.parquet")["item_id"].to_list()
    assert kept == [1, 2, 3, 4]  # users 0 to 5 are before the test: 5 and 6 have one of them each
    dropped = json.loads((directory / "manifest.json").read_text())["rows"]["dropped"]
    assert dropped == {"item of fewer than 2 users": 2 + 1 + 2 + 2}
    assert 9 in pl.read_parquet(prepare(path, **settings) / "catalogue.parquet")["item_id"].to_list()


def test_the_catalogue_has_the_items_features_as_they_are(prepare: Prepare, tmp_path: Path) -> None:
    """By name of the feature, whatever its column is called, after how often and how an item is called."""
    items = {
        "item_id": ["3", "1", "77"],
        "maker": ["Zed", None, "X"],
        "tags": ["a|b", "", "c"],
        "cost": [4.0, 9.5, 1.0],
    }
    items |= {"label": ["Hat", "Red shoe", "Bag"], "picture": [[0.5, 1.0], None, [1.0, 1.0]]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    specs = {
        "brand": {"kind": "categorical", "column": "maker"},
        "tags": {"kind": "multi", "separator": "|"},
        "price": {"kind": "price", "column": "cost"},
        "title": {"kind": "text", "column": "label"},
        "picture": {"kind": "vector"},
    }
    path = log(tmp_path / "a.parquet")
    directory = prepare(path, items=str(tmp_path / "items.parquet"), features={"items": specs})
    frame = pl.read_parquet(directory / "catalogue.parquet")
    assert frame.columns == ["item_id", "train_count", "age_days", "item_name", "brand", "tags", "price", "title"]
    assert frame.drop("train_count", "age_days").rows() == [
        (1, "Red shoe", None, None, 9.5, "Red shoe"),
        (2, None, None, None, None, None),
        (3, "Hat", "Zed", ["a", "b"], 4.0, "Hat"),
    ]


def test_ages_are_days_until_the_test_begins(prepare: Prepare, tmp_path: Path) -> None:
    """The last four of eighteen events test: neither their times nor their items count."""
    hours = np.array([0, 1, 2, 24, 25, 26, 71, 72, 73, 100, 101, 102, 143, 143, 145, 999, 1000, 1001])
    items = [1, 2, 1, 1, 3, 1, 4, 5, 1, 1, 6, 2, 1, 7, 1, 4, 1, 2]
    stamps = (1_700_000_000_000 + 60 * MINUTE * hours).tolist()
    directory = prepare(log(tmp_path / "a.parquet", item_id=items, timestamp=stamps))
    ages = dict(pl.read_parquet(directory / "catalogue.parquet").select("item_id", "age_days").rows())
    assert ages == {1: 143 // 24, 2: 142 // 24, 3: 118 // 24, 4: 72 // 24, 5: 71 // 24, 6: 42 // 24, 7: 0}


def test_where_no_user_is_known_a_session_stands_for_one(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet", item_id=[1, 2, 7, 2, 1, 1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2, 2])
    directory = prepare(path, min_users_per_item=2)
    assert pl.read_parquet(directory / "catalogue.parquet")["item_id"].to_list() == [1, 2]


def test_erased_users_and_missing_consent_are_counted(prepare: Prepare, tmp_path: Path) -> None:
    path = log(
        tmp_path / "a.parquet", user_id=np.repeat([f"user {i}" for i in range(6)], 3).tolist(), ok=[True] * 17 + [None]
    )
    (tmp_path / "erase.txt").write_text("user 0\nsomebody else\n")
    columns = {"consent": "ok"}
    manifest = open_prepared(prepare(path, erase=str(tmp_path / "erase.txt"), columns=columns)).manifest
    assert manifest["rows"]["dropped"] == {"erased at the user's request": 3, "no consent": 1}
    with pytest.raises(UserError, match=r"can't be read .*; expected text with one user id a line"):
        prepare(path, erase=str(tmp_path / "missing.txt"))
    with pytest.raises(UserError, match="the events have no user column"):
        prepare(log(tmp_path / "b.parquet"), erase=str(tmp_path / "erase.txt"))


def test_the_data_may_be_taken_as_it_was(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet")  # an event each forty minutes from 2023-11-14T22:13:20Z on
    for until in ("2023-11-15", "2023-11-15T00:00:00Z", "2023-11-15T01:00+01:00"):
        with pytest.raises(UserError, match=r"leaves events|nothing is left to train on"):
            prepare(path, until=until)  # three events
    manifest = open_prepared(prepare(path, until="2023-11-15T09:33:20")).manifest
    assert manifest["rows"]["dropped"] == {"at or after preparation.until": 1}
    with pytest.raises(UserError, match=r"preparation.until=soon; expected 2026-01-31 or"):
        prepare(path, until="soon")
    ordinals = log(tmp_path / "b.parquet", timestamp=list(range(18)))
    with pytest.raises(UserError, match=r"no date is before or after them"):
        prepare(ordinals, until="2023-11-15")
    with pytest.raises(UserError, match=r"test_days: the timestamps have no unit"):
        prepare(ordinals, partial(splits.temporal, test_fraction=0.3, validation_fraction=0.3, test_days=1))


def test_no_raw_id_is_in_the_prepared_directory(prepare: Prepare, tmp_path: Path) -> None:
    """Not even while it is made: ids of users and sessions are searched for as text and as eight bytes."""
    sessions = (np.repeat(np.arange(6), 3) + 7_919_000_000_000_011).tolist()
    users = np.repeat([f"ann-{i}@example.org" for i in range(6)], 3).tolist()
    path = log(tmp_path / "a.parquet", session_id=sessions, user_id=users)
    seen: list[bytes] = []
    sort = increment.sort_partitions

    def look(partitions: Any, rows: int, folder: Path, *rest: Any) -> Any:
        seen.extend(file.read_bytes() for file in folder.parent.iterdir() if file.is_file())
        return sort(partitions, rows, folder, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(increment, "sort_partitions", look)
        directory = prepare(path, min_users_per_item=2)
    seen += [file.read_bytes() for file in directory.iterdir()]
    assert len(seen) > 10
    for content in seen:
        assert b"example.org" not in content and b"79190000000000" not in content
        assert not any(np.int64(s).tobytes() in content for s in sessions)


def test_session_ids_numbered_for_each_user_are_refused(prepare: Prepare, tmp_path: Path) -> None:
    """As ga_session_id: user 3's session 2 is another one than user 4's."""
    rows = [(u % 9, visit, (u + visit + n) % 5, 10**9 + 86_400 * u + 7200 * visit + n) for u in range(40)
            for visit in range(3) for n in range(4)]  # fmt: skip
    schema = ["user_id", "session_id", "item_id", "timestamp"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(tmp_path / "a.parquet")
    prepared = open_prepared(prepare(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"3 of 3 sessions \(100.0%\).*data\.columns\.session_id=false"):
        require_sound(prepared)
    for off in (None, False):
        whole = open_prepared(prepare(tmp_path / "a.parquet", columns={"session_id": off}))
        assert whole.manifest["sessions"] == {"count": 120, "source": "users' events, cut by gaps of over 30 minutes"}
