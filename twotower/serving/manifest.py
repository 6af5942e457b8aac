"""The manifest: which files a bundle has, what they are, and which version of them answers.

A later version (serving.delta) has new files below versions/N/ and shares the others; manifest.json names those
of the version that answers, by paths; a file's name is the path's last part.
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
OWN_FILE = "own_vectors.npy"
GOLDEN_FILE = "golden.json"
README_FILE = "README.md"
CURVE_FILE = "index.html"
MANIFEST_FILE = "manifest.json"
VERSIONS = "versions"  # the folder of later versions' files, and of earlier manifests
REQUIRED = (EMBEDDINGS_FILE, ITEMS_FILE, INDEX_FILE, TOWER_FILE, FEATURES_FILE, GOLDEN_FILE)
OPTIONAL = (HISTORY_FILE, TOWER_INT8_FILE, ITEM_TOWER_FILE, OWN_FILE, README_FILE, CURVE_FILE)
FORMAT_VERSION = 3
FACTS = ("similarity", "dim", "num_items", "max_length", "inputs", "index")  # what serving reads from the manifest
COSINE, DOT = "cosine", "dot"
REMEDY = "copy the bundle again, or export the run again: python export.py run=RUN"


def places(manifest: dict[str, Any]) -> dict[str, str]:
    """Each file's name and its path in the bundle."""
    return {path.rpartition("/")[2]: path for path in manifest["files"]}


def seal(directory: Path, facts: dict[str, Any], files: Iterable[str]) -> dict[str, Any]:
    """The manifest of files that lie in `directory`, whose paths there are `files`; it is not written yet."""
    hashes = {name: sha256(directory / name) for name in files}
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": hashes}
    return {**manifest, "checksum": checksum(manifest)}


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Let `directory` be what `manifest` says; replaced whole, so whoever opens it sees the old one or the new one."""
    write_json(directory / MANIFEST_FILE, manifest)


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 over all of the manifest but the checksum itself, so that damage to any fact shows."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path, name: str = MANIFEST_FILE) -> dict[str, Any]:
    """The manifest of a bundle, or that of another version of it in the file `name`, whose files are what it says.

    Raises UserError where it isn't so.
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
        raise refusal(file, "contents that do not fit its own checksum", "a manifest as the export wrote it")
    files = manifest.get("files")
    names = set(places(manifest)) if isinstance(files, dict) else set()
    unsafe = [p for p in files if p.startswith("/") or ".." in p.split("/")] if isinstance(files, dict) else []
    if unsafe or not set(REQUIRED) <= names <= {*REQUIRED, *OPTIONAL} or not manifest.keys() >= set(FACTS):
        raise refusal(file, "other keys", f"the files {', '.join(REQUIRED)} and the facts {', '.join(FACTS)}")
    if manifest["similarity"] not in (COSINE, DOT):
        raise refusal(file, f"similarity {manifest['similarity']}", f"{COSINE} or {DOT}")
    inputs = manifest["inputs"]
    if not (isinstance(inputs, list) and all(_is_input(entry) for entry in inputs)):
        raise refusal(file, f"inputs {inputs!r}", "a list of names with sizes")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing; {REMEDY}")
        if sha256(path / name) != expected:
            raise refusal(path / name, "another SHA-256", "the manifest's (it is damaged or of another bundle)")
    return dict(manifest)


def _is_input(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and type(entry.get("size")) is int


def refusal(file: Path, found: str, expected: str) -> UserError:
    """What to say of a file that is not as it should be."""
    return UserError(f"{file} has {found}; expected {expected}. {REMEDY[0].upper()}{REMEDY[1:]}")
