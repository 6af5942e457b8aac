"""A bundle that is damaged, incomplete, mixed or newer is refused, and the message says where."""

import json
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_oracle import DIM, reseal, toy_tower

from twotower.core.errors import UserError
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE, TOWER_FILE
from twotower.serving import bundle_format as fmt
from twotower.serving.retriever import Retriever
from twotower.serving.verify import verify

IDS = [10, 20, 30, 40, 50]


@pytest.fixture
def path(make_bundle: Any) -> Path:
    return make_bundle(IDS)


@pytest.mark.parametrize("name", fmt.REQUIRED)
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_flipped_byte(path: Path, name: str, where: float) -> None:
    content = bytearray((path / name).read_bytes())
    content[int(where * len(content))] ^= 0x10
    (path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        Retriever.load(path)


def test_changed_character_in_the_manifest(path: Path) -> None:
    text = (path / fmt.MANIFEST_FILE).read_text()
    written = json.loads(text)
    refused = 0
    for position in range(0, len(text), 7):
        changed = text[:position] + ("1" if text[position] != "1" else "2") + text[position + 1 :]
        (path / fmt.MANIFEST_FILE).write_text(changed)
        try:
            if json.loads(changed) == written:
                continue  # only an indent
        except json.JSONDecodeError:
            pass
        refused += 1
        with pytest.raises(UserError, match=fmt.MANIFEST_FILE):
            Retriever.load(path)
    assert refused > 20


@pytest.mark.parametrize("name", [*fmt.REQUIRED, fmt.MANIFEST_FILE])
def test_missing_file(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        Retriever.load(path)


@pytest.mark.parametrize("name", fmt.REQUIRED)
@pytest.mark.parametrize("hashes_fit", [False, True])
def test_truncated_file(path: Path, name: str, hashes_fit: bool) -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    if hashes_fit:
        reseal(path)
    with pytest.raises(UserError, match=name):
        verify(path)  # loads it, and reads golden.json, which serving does not


def test_file_of_another_bundle(make_bundle: Any, path: Path) -> None:
    other = make_bundle(IDS, seed=1)
    for name in (fmt.EMBEDDINGS_FILE, fmt.INDEX_FILE, fmt.GOLDEN_FILE):
        shutil.copy(other / name, path / name)
        with pytest.raises(UserError, match=f"{name} .*another bundle"):
            Retriever.load(path)
        shutil.copy(make_bundle(IDS) / name, path / name)


def test_newer_version(path: Path) -> None:
    reseal(path, format_version=fmt.FORMAT_VERSION + 1)
    with pytest.raises(UserError, match="version 6, this twotower reads 5; install a newer"):
        Retriever.load(path)


@pytest.mark.parametrize("version", [0, 4, None, "4", [4]])
def test_other_version(path: Path, version: Any) -> None:
    reseal(path, format_version=version)
    with pytest.raises(UserError, match="export the run again"):
        Retriever.load(path)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a bundle"):
        Retriever.load(tmp_path)
    (tmp_path / fmt.MANIFEST_FILE).write_text("[]")
    with pytest.raises(UserError, match="format version None"):
        Retriever.load(tmp_path)


# From here on hashes and checksum are right, and a file's content does not fit the others.


def test_index_of_another_size(path: Path) -> None:
    index = faiss.IndexFlatIP(DIM)
    index.add(np.zeros((len(IDS) + 1, DIM), np.float32))
    faiss.write_index(index, str(path / fmt.INDEX_FILE))
    reseal(path)
    with pytest.raises(UserError, match=r"index.faiss has 6 vectors of dim 8; expected 5 of 8"):
        Retriever.load(path)


def test_index_of_other_vectors(path: Path) -> None:
    index = faiss.IndexFlatIP(DIM)
    index.add(np.load(path / fmt.EMBEDDINGS_FILE)[::-1].copy())
    faiss.write_index(index, str(path / fmt.INDEX_FILE))
    reseal(path)
    with pytest.raises(UserError, match=r"index.faiss has other vectors"):
        Retriever.load(path)


def test_index_of_another_similarity(path: Path) -> None:
    index = faiss.IndexFlatL2(DIM)
    index.add(np.load(path / fmt.EMBEDDINGS_FILE))
    faiss.write_index(index, str(path / fmt.INDEX_FILE))
    reseal(path)
    with pytest.raises(UserError, match=r"index.faiss has IndexFlatL2 of another metric; expected an inner-product"):
        Retriever.load(path)


@pytest.mark.parametrize("similarity", [fmt.COSINE, "l2"])
def test_manifest_of_another_similarity(path: Path, similarity: str) -> None:
    reseal(path, similarity=similarity)
    with pytest.raises(UserError, match=r"length one|similarity l2"):
        Retriever.load(path)


def test_embeddings_of_another_shape(path: Path) -> None:
    vectors = np.load(path / fmt.EMBEDDINGS_FILE)
    for wrong in (vectors[:-1], vectors[:, :-1], vectors.astype(np.float64)):
        np.save(path / fmt.EMBEDDINGS_FILE, wrong)
        reseal(path)
        with pytest.raises(UserError, match=r"item_embeddings.npy .*expected float32 (\[5, 8\]|of 5 rows)"):
            Retriever.load(path)


def test_embeddings_are_never_unpickled(path: Path) -> None:
    np.save(path / fmt.EMBEDDINGS_FILE, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reseal(path)
    with pytest.raises(UserError, match=r"item_embeddings.npy has .*Python objects"):
        Retriever.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(0, 4),
        lambda table: table.drop_columns("train_count"),
        lambda table: table.drop_columns("age_days"),
        lambda table: table.drop_columns("embedding"),
        lambda table: table.set_column(0, "item_id", pa.array([1.0, 2, 3, 4, 5])),
        lambda table: table.set_column(0, "item_id", pa.array([1, 2, 2, 4, 5])),
    ],
)
def test_items_of_another_kind(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path / ITEMS_FILE)), path / ITEMS_FILE)
    reseal(path)
    with pytest.raises(UserError, match=r"items.parquet"):
        Retriever.load(path)


def test_tower_of_other_vectors(path: Path) -> None:
    onnx.save(toy_tower(DIM + 1), path / TOWER_FILE)
    reseal(path)
    with pytest.raises(UserError, match=r"user_tower.onnx .*of 8 numbers"):
        Retriever.load(path)


def test_a_tower_of_8_bits_that_is_not_there(path: Path) -> None:
    with pytest.raises(UserError, match=r"no user_tower_int8.onnx"):
        Retriever.load(path, int8=True)


@pytest.mark.parametrize("name", ["../index.faiss", "/etc/index.faiss", "versions/../../index.faiss"])
def test_files_are_below_the_bundle(path: Path, name: str) -> None:
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text())
    manifest["files"] = {(name if n == fmt.INDEX_FILE else n): h for n, h in manifest["files"].items()}
    manifest["checksum"] = fmt.checksum(manifest)
    (path / fmt.MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest.json has other keys"):
        Retriever.load(path)


def test_files_that_no_bundle_has(path: Path) -> None:
    (path / "model.pkl").write_bytes(b"x")
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text())
    del manifest["checksum"]
    files = manifest.pop("files")
    fmt.write_manifest(path, fmt.seal(path, manifest, [*files, "model.pkl"]))
    with pytest.raises(UserError, match=r"manifest.json has other keys"):
        Retriever.load(path)


INPUTS = {"event_type": 3, "gap": 64, "hour": 25}
FEATURES = {"time_zone": "Europe/Berlin", "event_types": ["cart", "view"], "input_types": [1, 2], "events": {}}


@pytest.fixture
def with_inputs(make_bundle: Any) -> Path:
    path: Path = make_bundle(IDS, inputs=INPUTS, features=FEATURES)
    Retriever.load(path)
    return path


def test_tower_of_other_inputs(make_bundle: Any, with_inputs: Path) -> None:
    for inputs in ({}, {"event_type": 3, "gap": 64}, {**INPUTS, "hour": 24}):
        other = make_bundle(IDS, inputs=inputs, features=FEATURES)
        shutil.copy(other / TOWER_FILE, with_inputs / TOWER_FILE)
        reseal(with_inputs)
        with pytest.raises(UserError, match=r"user_tower.onnx .*event inputs of \[3, 64, 25\] codes"):
            Retriever.load(with_inputs)


@pytest.mark.parametrize(
    "change",
    [
        {"event_types": ["cart", "remove", "view"], "input_types": [1, 2, 3]},
        {"input_types": [1]},
        {"event_types": None},
        {"time_zone": None},
        {"time_zone": "../zone"},
    ],
)
def test_features_that_do_not_fit_the_inputs(with_inputs: Path, change: Any) -> None:
    (with_inputs / FEATURES_FILE).write_text(json.dumps(FEATURES | change))
    reseal(with_inputs)
    with pytest.raises(UserError, match=r"features.json"):
        Retriever.load(with_inputs)


@pytest.mark.parametrize("content", ["[]", "{}", '{"time_zone": "UTC"}', "null"])
def test_features_of_another_kind(with_inputs: Path, content: str) -> None:
    (with_inputs / FEATURES_FILE).write_text(content)
    reseal(with_inputs)
    with pytest.raises(UserError, match=r"features.json"):
        Retriever.load(with_inputs)


def test_input_without_an_encoder(with_inputs: Path) -> None:
    reseal(with_inputs, inputs=[{"name": name, "size": size} for name, size in [*INPUTS.items(), ("device", 5)]])
    with pytest.raises(UserError, match=r"features.json .*device"):
        Retriever.load(with_inputs)


@pytest.mark.parametrize("inputs", [None, {}, "gap", [1], [{"name": "gap"}], [{"name": "gap", "size": "64"}]])
def test_manifest_with_other_inputs(with_inputs: Path, inputs: Any) -> None:
    reseal(with_inputs, inputs=inputs)
    with pytest.raises(UserError, match=r"manifest.json has inputs"):
        Retriever.load(with_inputs)


def test_time_zone_that_the_machine_does_not_have(with_inputs: Path) -> None:
    (with_inputs / FEATURES_FILE).write_text(json.dumps(FEATURES | {"time_zone": "Europe/Nowhere"}))
    reseal(with_inputs)
    with pytest.raises(UserError, match=r"no time zone Europe/Nowhere; pip install tzdata"):
        Retriever.load(with_inputs)
