"""The generated marketplace, prepared, and its ceiling."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import preparing

from twotower.core.files import read_json
from twotower.core.schema import CEILING_FILE, Prepared, open_prepared
from twotower.data.preparation import splits
from twotower.data.readers import marketplace
from twotower.data.readers.marketplace import prepare_marketplace

TEMPORAL = partial(splits.temporal, test_fraction=0.1, validation_fraction=0.1)


def market(root: Path, split: Any = TEMPORAL, **settings: Any) -> Path:
    sizes = {"items": 400, "users": 150, "sessions": 500, "days": 30, "seed": 2, "oracle": True, **settings}
    return prepare_marketplace(**sizes, root=str(root), prepare=preparing(root, split)).path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("market")


def raw_of(root: Path) -> Path:
    (raw,) = root.glob("marketplace-*-raw")
    return raw


def test_the_ceiling_is_that_of_the_prepared_test_queries(root: Path) -> None:
    directory = market(root)
    prepared: Prepared = open_prepared(directory)
    item_id = ["", *pl.read_parquet(directory / "catalogue.parquet")["item_id"]]
    # The prepared sessions have lost their ids; a session's moments tell it from all others.
    oracle = {(r["timestamp"], r["item_id"]): r for r in pl.read_parquet(raw_of(root) / "oracle.parquet").to_dicts()}
    hits = []
    for start, first, stop in zip(prepared.offsets[:-1], prepared.validation_end, prepared.offsets[1:], strict=True):
        for event in range(max(first, start + 1), stop):
            row = oracle[int(prepared.timestamp[event]), item_id[prepared.item_index[event]]]
            places = range(row["better"] + 1, row["better"] + row["tied"] + 1)
            hits.append(sum(place <= 20 for place in places) / len(places))
    assert len(hits) > 100
    assert len(oracle) > 2 * len(hits)
    assert prepared.manifest["rows"]["dropped"]["test event of an item outside the catalogue"] > 0
    ceiling = read_json(directory / CEILING_FILE, "a prepared directory")
    assert ceiling == {"recall_at_20": pytest.approx(sum(hits) / len(hits), rel=1e-12)}


def test_it_is_generated_and_prepared_once(root: Path) -> None:
    directory = market(root)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert market(root) == directory
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_there_is_no_ceiling_where_the_oracle_did_not_look(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for split in (splits.leave_one_out, partial(TEMPORAL, test_fraction=0.6)):
        directory = market(root, split)
        assert read_json(directory / CEILING_FILE, "a prepared directory") == {}
    assert "no ceiling: the oracle's ranks do not cover the whole test part" in caplog.text


def test_other_settings_and_another_generator_give_another_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"items": 30, "users": 10, "sessions": 60}
    raws = []

    def count(**settings: Any) -> int:
        market(tmp_path, **small, **settings)
        raws.append(len(list(tmp_path.glob("marketplace-*-raw"))))
        return raws[-1]

    assert (count(), count(), count(seed=3)) == (1, 1, 2)
    changed = tmp_path / "synthetic.py"
    changed.write_bytes(Path(marketplace.synthetic.__file__).read_bytes() + b"# changed\n")
    monkeypatch.setattr(marketplace.synthetic, "__file__", str(changed))
    assert count() == 3


def test_without_the_oracle_there_is_no_ceiling(tmp_path: Path) -> None:
    assert not (market(tmp_path, oracle=False) / CEILING_FILE).exists()
