"""Checkpoints come back as they were written, or are refused; nothing in them is run."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twotower.core.errors import UserError
from twotower.runs import checkpoint
from twotower.runs.checkpoint import last_good, previous_of, read_checkpoint, write_checkpoint

SHARED = torch.arange(6.0).reshape(2, 3)
CONTENT: dict[str, Any] = {
    "state_dict": {
        "weight": SHARED,
        "tied": SHARED,
        "part": SHARED[:, 1],
        "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "none": torch.empty(0, 4),
    },
    "optimizer": [{"state": {0: {"step": torch.tensor(7.0)}, 1: {}}, "groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]}],
    "validated": {0: {"val/x": 0.1}, 1: {"val/x": 1 / 3}},
    "odd": [None, True, "ü", math.inf, -0.0, [], (), {}, {"__tensor__": "0"}, {(1, "a"): 2}],
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


def test_all_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    write_checkpoint(path, CONTENT)
    assert same(read_checkpoint(path), CONTENT)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644
    write_checkpoint(path, {"number": np.float64(0.5), "path": Path("x")})
    assert read_checkpoint(path) == {"number": 0.5, "path": "x"}


def test_what_has_no_form_is_refused_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": 1})
    with pytest.raises(TypeError, match="can't hold set"):
        write_checkpoint(path, {"a": {1, 2}})
    assert read_checkpoint(path) == {"a": 1}


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    for position in {*range(0, len(whole), max(1, len(whole) // 200)), len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.safetensors is missing, damaged or not a checkpoint"):
            if same(read_checkpoint(path), CONTENT):  # a blank of the header became another blank
                raise UserError("a.safetensors is missing, damaged or not a checkpoint: no")
    for content in (b"", whole[: len(whole) // 2], pickle.dumps(CONTENT["validated"])):
        path.write_bytes(content)
        with pytest.raises(UserError, match="missing, damaged or not a checkpoint"):
            read_checkpoint(path)


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    write_checkpoint(path, {"a": 1})

    def full(tensors: Any, file: Path, about: Any) -> None:
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=rf"No space left on device.* train resume={tmp_path / 'run'}"):
        write_checkpoint(path, {"a": 2})
    assert read_checkpoint(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


def test_a_damaged_last_one_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.safetensors"
    assert last_good(path) is None
    write_checkpoint(previous_of(path), {"a": 1})
    assert last_good(path) == previous_of(path), "a kill between two files"
    write_checkpoint(path, {"a": 2})
    assert last_good(path) == path
    path.write_bytes(b"damaged")
    assert last_good(path) == previous_of(path)
    assert str(path) in caplog.text
    previous_of(path).write_bytes(b"too")
    with pytest.raises(UserError, match="previous_last"):
        last_good(path)
