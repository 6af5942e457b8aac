"""Format of the prepared directory (hand-off 1): file names, array dtypes, writing, opening and verification.

Shapes: E events, S sessions, V items. Events lie session after session, oldest first.
"""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.files import read_json, sha256, write_json

PAD = 0  # item_index of "no item"; real items are 1..V

# Columns of the events frame, as every reader delivers them.
SESSION_ID = "session_id"
USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
EVENT_TYPE = "event_type"
SPLIT = "split"
CONSENT = "consent"
CONSENT_VALUES = ("true", "1", "1.0", "yes", "y", "t", "granted")  # lower-case texts that count as consent
NO_CONSENT_VALUES = ("false", "0", "0.0", "no", "n", "f", "denied", "")  # and these as none, like null
ITEM_NAME = "item_name"  # display name, where one is known
TRAIN_COUNT = "train_count"  # number of training events of an item
AGE_DAYS = "age_days"  # whole days from an item's first event to the last event before the test; null for ordinals
EMBEDDING = "embedding"  # vector of an item
ITEM_COLUMNS = (ITEM_ID, TRAIN_COUNT, AGE_DAYS, ITEM_NAME, EMBEDDING)  # reserved: no item feature may have these names
RETURNING = "returning"  # of a session: all that is kept of its user's id
ORDINAL = "ordinal"  # timestamp unit of numbers that only order the events
# Reasons for which preparation drops a row.
DUPLICATE_ROW = "duplicate of another row"
NO_TIMESTAMP = "no readable timestamp"
ODD_CONSENT = "consent that is neither yes nor no"
SINGLE_EVENT = "only event of its session"

CATALOGUE_FILE = (
    # item_id, train_count, age_days, item_name where known, and a column of raw values (features.raw_values) for each
    # item feature except vectors; row r is item_index r + 1
    "catalogue.parquet"
)
ITEMS_FILE = "items.parquet"  # in bundles: item_id in the same order, embeddings, and the catalogue's columns
TOWER_FILE = "user_tower.onnx"  # in bundles alone
FEATURES_FILE = "features.json"  # encoders of item and event features, time zone, event types
ITEM_FEATURES_FILE = (
    # name.codes [T] and name.offsets [V + 1] of bags, name.values [V, W] of numbers, name.price [V] float32
    "item_features.npz"
)
MANIFEST_FILE = "manifest.json"
STATISTICS_FILE = "statistics.json"  # counts made by preparation, for the audit and the data card
AUDIT_FILE = "audit.json"
CARD_FILE = "card.html"
CEILING_FILE = "ceiling.json"  # metrics of the true distribution, for generated data
FORMAT_VERSION = 5  # increase it whenever the same events would be prepared differently


ARRAYS: dict[str, str] = {
    "item_index": "int32",  # [E] 1..V
    "event_type": "uint8",  # [E] position in manifest["event_types"]
    "timestamp": "int64",  # [E] milliseconds since 1970, or ordinals
    "offsets": "int64",  # [S + 1] session s is events offsets[s]:offsets[s + 1]
    "train_end": "int64",  # [S] events offsets[s]:train_end[s] are for training
    "validation_end": "int64",  # [S] events train_end[s]:validation_end[s] are for validation, the rest for testing
    RETURNING: "uint8",  # [S] 1: first session of its user, 2: a later one, 0: unknown user
}


def input_file(name: str) -> str:
    """Name of the file of an event input: [E] unsigned codes, 0 for unknown."""
    return f"input_{name}.npy"


@dataclass(frozen=True)
class Prepared:
    """An opened prepared directory; its arrays are memory-mapped and read-only.

    `inputs` holds the codes [E] of each event input (see twotower.core.event_codes); ARRAYS describes the others.

    >>> column, ends = np.array([1, 2, 3, 1]), (np.array([0, 4]), np.array([2]), np.array([3]), np.array([1]))
    >>> prepared = Prepared(Path("prepared"), {}, column, column, column, *ends, inputs={})
    >>> prepared.training_mask(include_validation=True)
    array([ True,  True,  True, False])
    """

    path: Path
    manifest: dict[str, Any]
    item_index: Array
    event_type: Array
    timestamp: Array
    offsets: Array
    train_end: Array
    validation_end: Array
    returning: Array
    inputs: dict[str, Array]

    @property
    def num_items(self) -> int:
        """V, the size of the catalogue; item indices are 1..V."""
        return int(self.manifest["num_items"])

    @property
    def event_types(self) -> list[str]:
        """Names of the event types, by code."""
        return list(self.manifest["event_types"])

    def fit_end(self, include_validation: bool) -> Array:
        """[S] end of the events of each session that a model is fitted on."""
        return self.validation_end if include_validation else self.train_end

    def training_mask(self, include_validation: bool) -> Array:
        """[E] True for the events that a model is fitted on."""
        end = np.repeat(self.fit_end(include_validation), np.diff(self.offsets))
        return np.arange(len(self.item_index)) < end


def write_prepared(directory: Path, manifest: dict[str, Any]) -> None:
    """Add the manifest, with checksums of all other files, to `directory`, which completes it.

    The fingerprint is that of the files that decide on a model; `manifest["inputs"]` names the event inputs. The caller
    makes the directory appear atomically (see files.atomic_directory).
    """
    arrays = [f"{name}.npy" for name in ARRAYS] + [input_file(name) for name in manifest["inputs"]]
    files = {name: sha256(directory / name) for name in [*arrays, CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE]}
    fingerprint = _digest("".join(f"{name}:{digest}\n" for name, digest in sorted(files.items())))
    content = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "files": files, **manifest}
    write_json(directory / MANIFEST_FILE, {**content, "sha256": _digest(json.dumps(content, sort_keys=True))})


def open_prepared(path: str | Path, check: bool = True) -> Prepared:
    """Open a prepared directory after checking each file against the manifest.

    Args:
        path: the directory.
        check: whether to read all files and compare checksums; the process that has just written them need not.

    Raises UserError when a file is missing, damaged, or of another format version.
    """
    path = Path(path)
    manifest = read_json(path / MANIFEST_FILE, "a prepared directory")
    remedy = f"delete {path} and prepare the events again"
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path / MANIFEST_FILE} has format version {version}, expected {FORMAT_VERSION}; {remedy}")
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if manifest.get("sha256") != _digest(json.dumps(content, sort_keys=True)):
        raise UserError(f"{path / MANIFEST_FILE} is damaged (its checksum does not match its content); {remedy}")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing; {remedy}")
        if check and sha256(path / name) != expected:
            raise UserError(f"{path / name} is damaged (its SHA-256 differs from the manifest's); {remedy}")
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    inputs = {name: np.load(path / input_file(name), mmap_mode="r", allow_pickle=False) for name in manifest["inputs"]}
    return Prepared(path=path, manifest=manifest, inputs=inputs, **arrays)


def read_item_features(directory: Path) -> dict[str, Array]:
    """Read the arrays of ITEM_FEATURES_FILE, by name, from a prepared or a run directory."""
    file = directory / ITEM_FEATURES_FILE
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is missing or damaged ({error}); prepare the events again") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
