"""The real data sets, with the numbers that the literature and their descriptions give."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from preparing import Prepare

from twotower.core.errors import UserError
from twotower.core.schema import Prepared, open_prepared
from twotower.data.preparation import splits

TEMPORAL = partial(splits.temporal, test_fraction=0.1, validation_fraction=0.1)
PREDEFINED = partial(splits.predefined, validation_fraction=0.1)


def count_test_queries(prepared: Prepared) -> int:
    first = np.maximum(prepared.validation_end, prepared.offsets[:-1] + 1)
    return int(np.maximum(prepared.offsets[1:] - first, 0).sum())


def test_diginetica(prepare: Prepare, real_data: Path) -> None:
    prepared = open_prepared(prepare(real_data / "diginetica", PREDEFINED))
    assert prepared.num_items == 43_097
    assert count_test_queries(prepared) == 60_858
    assert prepared.manifest["rows"] == {"read": 982_961, "kept": 982_961, "dropped": {}}
    events = prepared.manifest["split"]["events"]
    assert events["train"] + events["validation"] == 906_140
    validating = (prepared.validation_end > prepared.train_end).sum()
    assert validating == 18_667  # the last tenth of 186,670 training sessions


def test_diginetica_has_the_sessions_of_its_file(prepare: Prepare, real_data: Path) -> None:
    directory = prepare(real_data / "diginetica", PREDEFINED)
    prepared = open_prepared(directory)
    items = pl.read_parquet(directory / "catalogue.parquet")["item_id"].to_numpy()
    raw = pl.read_parquet(real_data / "diginetica" / "events.parquet")
    for session in (0, 7, 1234, len(prepared.offsets) - 2):
        name = raw["session_id"].unique().sort()[session]
        rows = sorted(raw.filter(pl.col("session_id") == name).to_dicts(), key=lambda r: r["timestamp"])
        found = prepared.item_index[prepared.offsets[session] : prepared.offsets[session + 1]]
        assert items[found - 1].tolist() == [r["item_id"] for r in rows]


@pytest.mark.parametrize("split", [TEMPORAL, PREDEFINED])
def test_yoochoose(prepare: Prepare, real_data: Path, split: partial[splits.Split]) -> None:
    prepared = open_prepared(prepare(real_data / "yoochoose100k", split))
    manifest = prepared.manifest
    assert manifest["timestamp_unit"] == "ms"
    assert manifest["rows"]["read"] == manifest["rows"]["kept"] + sum(manifest["rows"]["dropped"].values())
    learnt = prepared.timestamp[np.arange(len(prepared.timestamp)) < np.repeat(
        prepared.validation_end, np.diff(prepared.offsets))]  # fmt: skip
    if manifest["split"]["kind"] == "temporal":
        assert learnt.max() < manifest["split"]["test_start"]
    assert count_test_queries(prepared) > 5_000


def test_movielens(prepare: Prepare, real_data: Path) -> None:
    path = real_data / "movielens100k" / "events.parquet"
    temporal = open_prepared(prepare(path, TEMPORAL))
    assert temporal.manifest["timestamp_unit"] == "s"
    assert len(temporal.offsets) - 1 > 943  # users, of which many came more than once
    assert 8.7e11 < temporal.timestamp.min() < temporal.timestamp.max() < 8.95e11  # 1997 and 1998
    last = open_prepared(prepare(path, splits.leave_one_out, session_gap_minutes=None))
    assert len(last.offsets) - 1 == 943
    assert last.manifest["rows"]["read"] == 100_000
    assert (last.validation_end - last.train_end == 1).all()


def test_otto_needs_another_reader(prepare: Prepare, real_data: Path) -> None:
    with pytest.raises(UserError, match=r"has no column 'item_id' \(it has: session, events\)"):
        prepare(real_data / "otto_tiny")
