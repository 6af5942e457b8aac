"""Preparing with a store gives what preparing all files at once gives, to the bit, whatever came when."""

import json
import os
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from preparing import preparing
from test_prepare_oracle import SPLITS

from twotower.core.errors import UserError
from twotower.core.schema import Prepared
from twotower.data.preparation import increment, splits
from twotower.data.preparation import prepare as prepare_module
from twotower.data.preparation.store import STORE_FILE, Store, open_store
from twotower.data.readers import events

MINUTE, BEGIN = 60_000, 1_700_000_000_000
DECLARED = ("fingerprint", "sha256", "files", "settings", "seconds", "increment")  # may differ in the manifest
Rows = list[dict[str, Any]]


def random_log(rng: random.Random, by_user: bool) -> Rows:
    """Events of users and visits: ties, repetitions, nulls, a feature; anchors so that each split has its parts."""
    ids = rng.choice([[3, 1, 20, 100], ["b", "10", "é", "a"], [5, 2, 10, "x"]])
    rows: Rows = [
        {
            "user_id": 50 + i,
            "session_id": 500 + i,
            "item_id": ids[(i + n) % 3],
            "timestamp": BEGIN + MINUTE * (9 * i + n),
        }
        for i in range(10)
        for n in range(4)
    ]
    for _ in range(rng.choice([5, 40, 120])):
        session = rng.randrange(12)
        row = {"user_id": session % 5 or None, "session_id": session, "item_id": rng.choice([*ids, None])}
        rows.append(row | {"timestamp": BEGIN + MINUTE * rng.choice([*range(0, 100, 7), -(10**9)])})
    for row in rows:
        row |= {"event_type": rng.choice(["view", "cart"]), "device": rng.choice(["phone", "tv", None])}
        row["split"] = "train" if row["timestamp"] < BEGIN + 60 * MINUTE else "test"
        if by_user:
            del row["session_id"]
    rows += rng.choices(rows, k=rng.choice([0, 1, 30]))
    return rows


def ordinals(rows: Rows) -> Rows:
    """The same rows, whose timestamps only order them."""
    return [row | {"timestamp": max(-1, (row["timestamp"] - BEGIN) // MINUTE)} for row in rows]


def write(rows: Rows, path: Path) -> None:
    """Parquet whose ids are numbers where all of the file's are."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if any(isinstance(item, str) for item in columns["item_id"]):
        columns["item_id"] = [None if item is None else str(item) for item in columns["item_id"]]
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(columns, strict=False).with_columns(pl.col("device").cast(pl.String)).write_parquet(path)


def prepared(folder: Path, root: str, **options: Any) -> Prepared:
    """The directory for all files of folder/events."""
    columns = options.pop("columns", {})
    prepare = preparing(folder / root, **options)
    return events.read(str(folder / "events"), columns, "auto", None, None, prepare=prepare)


def content(directory: Prepared) -> dict[str, Any]:
    """All files, byte by byte; of the manifest what need not differ."""
    found: dict[str, Any] = {
        file.name: file.read_bytes() for file in directory.path.iterdir() if file.suffix not in (".json", ".html")
    }
    for name in ("statistics.json", "features.json", "audit.json"):
        found[name] = json.loads((directory.path / name).read_text())
    found["manifest"] = {name: value for name, value in directory.manifest.items() if name not in DECLARED}
    # Files in another order: other examples of values that could not be read.
    found["statistics.json"]["losses"].pop("samples")
    return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(st.integers(0, 10**9), st.booleans(), st.sampled_from(list(SPLITS)), st.integers(2, 4))
def test_any_cuts_of_any_log_give_the_same_as_all_at_once(seed: int, by_user: bool, split: str, cuts: int) -> None:
    check_cuts(seed, by_user, split, cuts)


@pytest.mark.parametrize("by_user", [False, True])
def test_some_cuts_give_the_same_as_all_at_once(by_user: bool) -> None:
    check_cuts(11 + by_user, by_user, "temporal", 3)


def check_cuts(seed: int, by_user: bool, split: str, cuts: int) -> None:
    """Prepare a random log file by file onto a store, and each time without one."""
    rng = random.Random(seed)
    rows = random_log(rng, by_user)
    options: dict[str, Any] = {
        "split": SPLITS[split],
        "features": {"events": {"device": {"kind": "categorical", "min_count": 1}}},
        "bounce": rng.choice([None, {"event_type": "view", "seconds": 700}]),
        "min_users_per_item": rng.choice([1, 2]),
        "session_gap_minutes": rng.choice([10, None]),
    }
    if not rng.randrange(4):
        rows = ordinals(rows)
        options |= {"bounce": None, "session_gap_minutes": None}
    names = rng.sample([f"{number}.parquet" for number in range(cuts)], cuts)  # the order of names is not that of time
    parts: list[Rows] = [[] for _ in names]
    for row in rows:
        parts[rng.randrange(cuts)].append(row)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for file, part in zip(names, parts, strict=True):
            write(part, folder / "events" / file)
            at_once = rng.choice([5, 40, 1000])
            patch.setattr(prepare_module, "_rows_at_once", lambda memory_gib, rows=at_once: rows)
            try:
                whole = content(prepared(folder, "whole", **options))
            except UserError as error:
                with pytest.raises(UserError) as raised:
                    prepared(folder, "parts", store=str(folder / "store"), **options)
                assert str(raised.value) == str(error)
                continue
            directory = prepared(folder, "parts", store=str(folder / "store"), **options)
            assert content(directory) == whole
            assert directory.manifest["increment"]["files"] >= 1


def shop(folder: Path, days: range, users: int = 30) -> Path:
    """One file a day; each user has three events in a row, a minute apart, on each day."""
    for day in days:
        rows = [
            {
                "user_id": user,
                "item_id": (user + day + n) % 7,
                "timestamp": BEGIN + 86_400_000 * day + MINUTE * (9 * user + n),
            }
            for user in range(users)
            for n in range(3)
        ]
        (folder / "events").mkdir(exist_ok=True)
        pl.DataFrame(rows).write_parquet(folder / "events" / f"{day}.parquet")
    return folder / "events" / f"{days[-1]}.parquet"


def stored(folder: Path, root: str = "parts", **options: Any) -> Prepared:
    return prepared(folder, root, store=str(folder / "store"), **options)


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "store" / STORE_FILE).read_text())
    return found


def test_late_events_are_counted(tmp_path: Path) -> None:
    shop(tmp_path, range(5, 8))
    assert stored(tmp_path).manifest["increment"] == {"files": 3, "rows": 270, "late": 0, "erased": 0}
    shop(tmp_path, range(4, 5))
    shop(tmp_path, range(8, 9))
    directory = stored(tmp_path)
    assert directory.manifest["increment"] == {"files": 2, "rows": 180, "late": 90, "erased": 0}
    assert content(directory) == content(prepared(tmp_path, "whole"))
    assert "90 of them are older" in prepare_module.describe(directory.manifest)


def test_another_split_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop(tmp_path, range(6))
    stored(tmp_path)
    before = state(tmp_path)["segments"]
    monkeypatch.setattr(increment, "sort_partitions", None)
    other = stored(tmp_path, split=partial(splits.temporal, test_fraction=0.4, validation_fraction=0.1))
    assert other.manifest["increment"] == {"files": 0, "rows": 0, "late": 0, "erased": 0}
    assert state(tmp_path)["segments"] == before


def test_many_small_increments_stay_few_segments(tmp_path: Path) -> None:
    shop(tmp_path, range(4), users=100)
    for day in range(4, 24):
        shop(tmp_path, range(day, day + 1), users=2)
        directory = stored(tmp_path)
        folders = {file.name for file in (tmp_path / "store").iterdir()}
        assert folders == {*state(tmp_path)["segments"], f"state-{state(tmp_path)['number']}", STORE_FILE}
        assert len(state(tmp_path)["segments"]) <= 9
    assert content(directory) == content(prepared(tmp_path, "whole"))


@pytest.mark.parametrize("by_session", [True, False])
def test_an_erased_user_leaves_the_store_for_good(tmp_path: Path, by_session: bool) -> None:
    for day in range(5):
        path = shop(tmp_path, range(day, day + 1))
        if by_session:
            frame = pl.read_parquet(path)
            frame.with_columns(session_id=pl.col("user_id") + 1000 * day).write_parquet(path)
    stored(tmp_path)
    (tmp_path / "erase.txt").write_text("7\n11\n")
    shop_of_day = shop(tmp_path, range(5, 6))
    if by_session:
        pl.read_parquet(shop_of_day).with_columns(session_id=pl.col("user_id") + 9000).write_parquet(shop_of_day)
    erase = str(tmp_path / "erase.txt")
    directory = stored(tmp_path, erase=erase)
    whole = prepared(tmp_path, "whole", erase=erase)
    assert directory.manifest["fingerprint"] == whole.manifest["fingerprint"]
    assert directory.manifest["rows"] == whole.manifest["rows"]
    assert (
        directory.manifest["matches"] == whole.manifest["matches"] == ["preparation.erase: 2 of 2 listed users matched"]
    )
    assert directory.manifest["increment"]["erased"] == 2 * 3 * 5
    seed = state(tmp_path)["seed"]
    hashes = {int(key) for key in pl.Series([7, 11]).hash(seed)}
    held: set[int] = set()
    for file in (tmp_path / "store").rglob("*.npy"):
        held |= set(np.load(file).ravel().tolist())
    assert not hashes & held
    assert {int(key) for key in pl.Series([8]).hash(seed)} <= held
    (tmp_path / "erase.txt").write_text("7\n")
    with pytest.raises(UserError, match=r"preparation\.erase no longer lists 1 .*another folder as preparation\.store"):
        stored(tmp_path, erase=erase)
    with pytest.raises(UserError, match=r"preparation\.erase no longer lists 2"):
        stored(tmp_path, split=partial(splits.temporal, test_fraction=0.4, validation_fraction=0.1))


STEPS = ["partition_events", "sort_partitions", "arrange", "write_events", "audit"]


@pytest.mark.parametrize("step", [*STEPS, "commit", "state", "remove"])
def test_a_kill_at_any_step_leaves_a_store_that_goes_on(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    shop(tmp_path, range(5))
    stored(tmp_path)
    before = state(tmp_path)
    shop(tmp_path, range(5, 7))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step in STEPS:
            patch.setattr(increment if step == "sort_partitions" else prepare_module, step, killed)
        else:
            name = {"commit": "write_json", "state": "np.save", "remove": "shutil.rmtree"}[step]
            patch.setattr(f"twotower.data.preparation.store.{name}", killed)
        stored(tmp_path)
    after = state(tmp_path)
    assert (after == before) == (step in ("partition_events", "sort_partitions", "commit", "state"))
    assert len(after["files"]) in (5, 7)
    directory = stored(tmp_path)
    assert content(directory) == content(prepared(tmp_path, "whole"))
    named = {*state(tmp_path)["segments"], f"state-{state(tmp_path)['number']}", STORE_FILE}
    assert {file.name for file in (tmp_path / "store").iterdir()} == named


@pytest.mark.parametrize("step", ["arrange", "sort_partitions", "commit"])
def test_a_kill_of_the_first_preparation_leaves_a_folder_that_goes_on(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    shop(tmp_path, range(5))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        where = increment if step == "sort_partitions" else Store if step == "commit" else prepare_module
        patch.setattr(where, step, killed)
        stored(tmp_path)
    assert content(stored(tmp_path)) == content(prepared(tmp_path, "whole"))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    (tmp_path / "store" / "state-of-affairs").mkdir(parents=True)
    with pytest.raises(UserError, match=r"store holds state-of-affairs; expected a store, or a new folder"):
        stored(tmp_path)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    held = open_store(str(tmp_path / "store"), tmp_path, {})
    with held, pytest.raises(UserError, match=r"another process is preparing with preparation\.store"):
        stored(tmp_path)
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    stored(tmp_path)


def test_a_touched_file_is_the_same_a_changed_or_missing_one_is_refused(tmp_path: Path) -> None:
    last = shop(tmp_path, range(5))
    stored(tmp_path)
    os.utime(last, ns=(0, 0))
    assert stored(tmp_path).manifest["increment"]["files"] == 0
    content_of_last = last.read_bytes()
    last.write_bytes(content_of_last[:100] + bytes([content_of_last[100] ^ 1]) + content_of_last[101:])
    with pytest.raises(UserError, match=r"4\.parquet has changed since .*another folder as preparation\.store"):
        stored(tmp_path)
    last.unlink()
    with pytest.raises(UserError, match=r"data\.path has no .*4\.parquet \(1 such files\)"):
        stored(tmp_path)
    last.write_bytes(content_of_last)
    stored(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"session_gap_minutes": 10},
        {"until": "2023-11-18"},
        {"min_users_per_item": 2},
        {"null_words": ["x"]},
        {"ids": ["case"]},
        {"bounce": {"event_type": "event", "seconds": 3}},
        {"columns": {"user_id": False, "session_id": "user_id"}},
    ],
)
def test_other_settings_of_rows_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    shop(tmp_path, range(5))
    stored(tmp_path)
    before = state(tmp_path)
    name = "data.columns" if "columns" in options else f"preparation.{next(iter(options))}"
    with pytest.raises(UserError, match=rf"{name}.*another folder as preparation\.store"):
        stored(tmp_path, **options)
    assert state(tmp_path) == before


def test_users_as_numbers_and_as_texts_are_the_same_users(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    stored(tmp_path)
    last = shop(tmp_path, range(5, 6))
    late = pl.read_parquet(last).with_columns(pl.col("timestamp") - 86_400_000 + 2 * MINUTE)
    late.with_columns(pl.col("user_id", "item_id").cast(pl.String)).write_parquet(last)
    assert content(stored(tmp_path)) == content(prepared(tmp_path, "whole"))


def test_a_new_unit_of_the_timestamps_and_a_new_type_are_refused(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    stored(tmp_path)
    last = shop(tmp_path, range(5, 6))
    frame = pl.read_parquet(last)
    many = pl.concat([frame] * 12)
    many.with_columns(pl.col("timestamp") // 1000 + pl.int_range(pl.len())).write_parquet(last)
    with pytest.raises(UserError, match=r"timestamps count s, but the rows of preparation\.store were read as ms"):
        stored(tmp_path)
    frame.with_columns(pl.col("timestamp").cast(pl.Float64)).write_parquet(last)
    with pytest.raises(UserError, match=r"timestamp was Int64 .* is Float64"):
        stored(tmp_path)


def test_features_of_tables_are_refused(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    pl.DataFrame({"user_id": list(range(30)), "age": ["x", "y"] * 15}).write_parquet(tmp_path / "users.parquet")
    prepare = preparing(
        tmp_path / "parts", store=str(tmp_path / "store"), features={"events": {"age": {"kind": "categorical"}}}
    )
    with pytest.raises(UserError, match=r"preparation\.store keeps features of events that are columns of the events"):
        events.read(str(tmp_path / "events"), {}, "auto", None, str(tmp_path / "users.parquet"), prepare=prepare)


def test_a_store_of_another_polars_is_refused(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    stored(tmp_path)
    saved = state(tmp_path)
    (tmp_path / "store" / STORE_FILE).write_text(json.dumps(saved | {"probe": [1, 2]}))
    shop(tmp_path, range(5, 6))
    with pytest.raises(UserError, match=r"another version of twotower or of polars"):
        stored(tmp_path)


def test_no_id_of_a_user_is_in_the_store(tmp_path: Path) -> None:
    shop(tmp_path, range(5))
    for file in (tmp_path / "events").iterdir():
        pl.read_parquet(file).with_columns("ann-" + pl.col("user_id").cast(pl.String)).write_parquet(file)
    stored(tmp_path)
    assert not any(b"ann-" in file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file())
