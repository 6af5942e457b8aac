"""Preparing with a store gives what preparing all files at once gives, to the bit, whatever came when."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from preparing import preparing
from test_prepare_oracle import SPLITS

from twotower.core.errors import UserError
from twotower.core.schema import Prepared
from twotower.data.preparation import prepare as prepare_module
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


@settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(st.integers(0, 10**9), st.booleans(), st.sampled_from(list(SPLITS)), st.integers(2, 4))
def test_any_cuts_of_any_log_give_the_same_as_all_at_once(seed: int, by_user: bool, split: str, cuts: int) -> None:
    rng = random.Random(seed)
    rows = random_log(rng, by_user)
    options: dict[str, Any] = {
        "split": SPLITS[split],
        "features": {"events": {"device": {"kind": "categorical", "min_count": 1}}},
        "bounce": rng.choice([None, {"event_type": "view", "seconds": 700}]),
        "min_users_per_item": rng.choice([1, 2]),
        "session_gap_minutes": rng.choice([10, None]),
    }
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
