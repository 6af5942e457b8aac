"""The same input with the same settings is prepared once, whole or not at all."""

import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from event_log import PREDEFINED, log
from preparing import Prepare

from twotower.core.errors import UserError
from twotower.core.schema import open_prepared
from twotower.data.preparation import prepare as prepare_module
from twotower.data.preparation import splits


def stamps(directory: Path) -> dict[str, int]:
    return {p.as_posix(): p.stat().st_mtime_ns for p in sorted(directory.rglob("*"))}


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
        prepare(path, time_zone="Asia/Tokyo"),
        prepare(path, bounce={"event_type": "event", "seconds": 3}),
        prepare(path, features={"events": {"split": {"kind": "categorical"}}}),
        prepare(path, min_users_per_item=2),
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


def test_what_a_killed_preparation_left_is_removed(prepare: Prepare, tmp_path: Path) -> None:
    path = log(tmp_path / "a.parquet")
    directory = prepare(path)
    left = directory.with_name(f".{directory.name}.killed")
    directory.rename(left)
    assert prepare(path) == directory
    assert not left.exists()
