"""The bundle's format (hand-off 3), in one place: its files, its manifest and its versions.

    item_embeddings.npy     [V, D] float32; row r is item_index r + 1
    history_embeddings.npy  [V, H] float32, only where items have other vectors in histories than as candidates
    items.parquet           item_id (int64 or string), embedding (D float32), train_count, age_days, item_name if known,
                            and the declared item features with their raw values, for filters; in the same order
    index.faiss             inner-product index over the embeddings: see serving.index
    user_tower.onnx         vectors of a history's items -> user_vector: see serving.user_tower
    user_tower_int8.onnx    the same with 8-bit weights, if its recall is as high
    item_tower.onnx         with item features: features -> item_vector: see serving.item_tower
    id_embeddings.npy       beside it: [V, O] float32, what the item tower adds to the features' part
    features.json           how events and items are encoded: time zone, event types, encoders
    golden.json             histories of the run's validation data with the trained model's results
    README.md, index.html   for people: figures, examples, how the index was chosen
    manifest.json           what the bundle is, where it comes from, and the SHA-256 of each file above
    signatures/             of manifests, where it is signed: see serving.signature
    versions/               files and manifests of other versions: see serving.updates.versions

The similarity is in the vectors: with `cosine` all have length one, so a dot product ranks in both cases.
A file's name is the last part of its path in the manifest: a later version has new files in versions/N/ and shares the
others. Shapes: V items, D embedding dim, H that of items in histories, O of id embeddings.

Format versions; only the newest is read, and an older bundle is made anew by exporting its run:

    1  item_embeddings.npy, items.parquet, index.faiss, user_tower.onnx, golden.json
    2  event inputs: features.json
    3  a user tower of vectors instead of item_index; int8, item tower, filters, delta versions, age_days
    4  id_embeddings.npy (was own_vectors.npy); indexes are exact or inverted files alone
    5  a pointer lowers the scores of a history's items, too
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twotower.core.errors import UserError
from twotower.core.files import read_json, sha256, write_json
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE, TOWER_FILE

EMBEDDINGS_FILE = "item_embeddings.npy"
HISTORY_FILE = "history_embeddings.npy"
INDEX_FILE = "index.faiss"
TOWER_INT8_FILE = "user_tower_int8.onnx"
ITEM_TOWER_FILE = "item_tower.onnx"
ID_EMBEDDINGS_FILE = "id_embeddings.npy"
GOLDEN_FILE = "golden.json"
README_FILE = "README.md"
CURVE_FILE = "index.html"
MANIFEST_FILE = "manifest.json"
VERSIONS = "versions"
REQUIRED = (EMBEDDINGS_FILE, ITEMS_FILE, INDEX_FILE, TOWER_FILE, FEATURES_FILE, GOLDEN_FILE)
OPTIONAL = (HISTORY_FILE, TOWER_INT8_FILE, ITEM_TOWER_FILE, ID_EMBEDDINGS_FILE, README_FILE, CURVE_FILE)
FORMAT_VERSION = 5
FACTS = ("similarity", "dim", "num_items", "max_length", "inputs", "index")  # what serving reads from the manifest
COSINE, DOT = "cosine", "dot"
REMEDY = "copy the bundle again, or export the run again: twotower export run=RUN"


def paths_by_name(manifest: dict[str, Any]) -> dict[str, str]:
    """Return each file's path in the bundle, by the file's name."""
    return {path.rpartition("/")[2]: path for path in manifest["files"]}


def seal(directory: Path, facts: dict[str, Any], files: Iterable[str]) -> dict[str, Any]:
    """Return the manifest of `files`, paths in `directory`, with their hashes and a checksum; nothing is written."""
    hashes = {name: sha256(directory / name) for name in files}
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": hashes}
    return {**manifest, "checksum": checksum(manifest)}


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest`, replaced as a whole, so a reader sees the old or the new one."""
    write_json(directory / MANIFEST_FILE, manifest)


def checksum(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of all of the manifest but its checksum, so that damage to any fact shows."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path, name: str = MANIFEST_FILE) -> dict[str, Any]:
    """Read the manifest `name` of the bundle at `path` and check every file against its hash.

    Raises:
        UserError: the manifest or a file is missing, damaged, of another bundle or of another format version.
    """
    file = path / name
    manifest = read_json(file, "a bundle")
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{file} has format version {version}, this twotower reads {FORMAT_VERSION}; install a newer twotower"
        )
    if version != FORMAT_VERSION:
        raise refusal(file, f"format version {version}", f"{FORMAT_VERSION}")
    if manifest.get("checksum") != checksum(manifest):
        raise refusal(file, "contents that do not match its checksum", "a manifest as the export wrote it")
    files = manifest.get("files")
    names = set(paths_by_name(manifest)) if isinstance(files, dict) else set()
    unsafe = [p for p in files if p.startswith("/") or ".." in p.split("/")] if isinstance(files, dict) else []
    if unsafe or not set(REQUIRED) <= names <= {*REQUIRED, *OPTIONAL} or not manifest.keys() >= set(FACTS):
        raise refusal(file, "other keys", f"the files {', '.join(REQUIRED)} and the facts {', '.join(FACTS)}")
    if manifest["similarity"] not in (COSINE, DOT):
        raise refusal(file, f"similarity {manifest['similarity']}", f"{COSINE} or {DOT}")
    inputs = manifest["inputs"]
    if not (isinstance(inputs, list) and all(map(_is_input, inputs))):
        raise refusal(file, f"inputs {inputs!r}", "a list of names with sizes")
    for place, expected in manifest["files"].items():
        if not (path / place).is_file():
            raise UserError(f"{path / place} is missing; {REMEDY}")
        if sha256(path / place) != expected:
            raise refusal(path / place, "another SHA-256", "the manifest's (it is damaged or of another bundle)")
    return dict(manifest)


def _is_input(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and type(entry.get("size")) is int


def refusal(file: Path, arrived: str, expected: str) -> UserError:
    """Return the error for a file with other contents than expected."""
    return UserError(f"{file} has {arrived}; expected {expected}. {REMEDY[0].upper()}{REMEDY[1:]}")
