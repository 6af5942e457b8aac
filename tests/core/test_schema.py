"""The prepared directory is opened as it was written, or refused with the damaged file's name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.core.schema import FORMAT_VERSION, Prepared, open_prepared, read_item_features

FILES = [
    "catalogue.parquet",
    "event_type.npy",
    "features.json",
    "input_hour.npy",
    "item_features.npz",
    "item_index.npy",
    "manifest.json",
    "offsets.npy",
    "returning.npy",
    "timestamp.npy",
    "train_end.npy",
    "validation_end.npy",
]


@pytest.fixture
def prepared(make_prepared: Callable[..., Prepared]) -> Prepared:
    return make_prepared(
        sessions=[[1, 2, 3], [3, 1], [2, 2, 1, 3]],
        train=[2, 2, 1],
        validation=[1, 0, 2],
        types=[[0, 1, 0], [1, 1], [0, 0, 1, 1]],
        event_types=("buy", "view"),
        inputs={"hour": [[1, 2, 0], [0, 24], [3, 3, 3, 3]]},
        item_features={"genre.codes": np.array([1, 0, 2, 1]), "genre.offsets": np.array([0, 1, 2, 4])},
    )


def test_what_was_written_is_opened(prepared: Prepared) -> None:
    assert sorted(p.name for p in prepared.path.iterdir()) == FILES
    assert prepared.item_index.tolist() == [1, 2, 3, 3, 1, 2, 2, 1, 3]
    assert prepared.event_type.tolist() == [0, 1, 0, 1, 1, 0, 0, 1, 1]
    assert prepared.offsets.tolist() == [0, 3, 5, 9]
    assert prepared.train_end.tolist() == [2, 5, 6]
    assert prepared.validation_end.tolist() == [3, 5, 8]
    assert prepared.fit_end(False).tolist() == [2, 5, 6]
    assert prepared.fit_end(True).tolist() == [3, 5, 8]
    assert {name: codes.tolist() for name, codes in prepared.inputs.items()} == {"hour": [1, 2, 0, 0, 24, 3, 3, 3, 3]}
    assert {n: a.tolist() for n, a in read_item_features(prepared.path).items()} == {
        "genre.codes": [1, 0, 2, 1],
        "genre.offsets": [0, 1, 2, 4],
    }
    assert prepared.num_items == 3
    assert prepared.event_types == ["buy", "view"]
    dtypes = {name: str(getattr(prepared, name).dtype) for name in ("item_index", "event_type", "timestamp")}
    assert dtypes == {"item_index": "int32", "event_type": "uint8", "timestamp": "int64"}


def test_item_features_that_can_not_be_read_are_named(prepared: Prepared) -> None:
    file = prepared.path / "item_features.npz"
    for damaged in (b"", file.read_bytes()[:40]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"item_features\.npz is missing or damaged"):
            read_item_features(prepared.path)
    file.unlink()
    with pytest.raises(UserError, match=r"item_features\.npz is missing or damaged"):
        read_item_features(prepared.path)


def test_arrays_can_not_be_changed(prepared: Prepared) -> None:
    assert isinstance(prepared.item_index, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        prepared.item_index[0] = 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(prepared: Prepared, name: str) -> None:
    (prepared.path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_prepared(prepared.path)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_noticed_wherever_it_is(prepared: Prepared, name: str) -> None:
    file = prepared.path / name
    whole = file.read_bytes()
    for position in sorted({0, 1, len(whole) - 2, *range(7, len(whole) - 1, max(1, len(whole) // 60))}):
        for bits in (0xFF, 0x01):
            damaged = bytearray(whole)
            damaged[position] ^= bits
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=name):
                open_prepared(prepared.path)
    file.write_bytes(whole)
    open_prepared(prepared.path)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(prepared: Prepared, name: str) -> None:
    file = prepared.path / name
    for keep in (0, file.stat().st_size // 2):
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(UserError, match=name):
            open_prepared(prepared.path)


@pytest.mark.parametrize("version", [0, FORMAT_VERSION - 1, FORMAT_VERSION + 1, None, str(FORMAT_VERSION)])
def test_another_format_version_is_refused(prepared: Prepared, version: object) -> None:
    file = prepared.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": version}))
    with pytest.raises(UserError, match=rf"manifest.json has format version {version}, expected {FORMAT_VERSION};"):
        open_prepared(prepared.path)


def test_other_json_is_refused(prepared: Prepared) -> None:
    (prepared.path / "manifest.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"manifest\.json has format version None"):
        open_prepared(prepared.path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a prepared directory"):
        open_prepared(tmp_path)


def test_the_fingerprint_is_that_of_the_data(make_prepared: Callable[..., Prepared]) -> None:
    one, same, other = (make_prepared(s) for s in ([[1, 2], [2, 1]], [[1, 2], [2, 1]], [[1, 2], [1, 2]]))
    assert one.path != same.path
    assert one.manifest["fingerprint"] == same.manifest["fingerprint"] != other.manifest["fingerprint"]
