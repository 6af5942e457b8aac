"""The prepared directory (hand-off 1): its names and dtypes, and the one place that writes and checks it.

Shapes: E events, S sessions, V items. Events lie session after session, oldest first.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.core.files import read_json, sha256, write_json

PAD = 0  # item_index of "no item"; real items are 1..V

# The events frame's columns, as every reader delivers them.
SESSION_ID = "session_id"
USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
EVENT_TYPE = "event_type"
SPLIT = "split"
CONSENT = "consent"
YES = ("true", "1", "1.0", "yes", "y", "t", "granted")  # what counts as consent, in small letters
ITEM_NAME = "item_name"  # what people call it, where that is known
TRAIN_COUNT = "train_count"  # an item's training events
AGE_DAYS = "age_days"  # whole days from its first event to the last of all before the test; null where time has no unit
EMBEDDING = "embedding"  # an item's vector
ITEM_COLUMNS = (ITEM_ID, TRAIN_COUNT, AGE_DAYS, ITEM_NAME, EMBEDDING)  # names that no item feature may take
RETURNING = "returning"  # of a session, from here on in place of its user

CATALOGUE_FILE = (
    # item_id, train_count, age_days, where known item_name, and a column for each item feature with its values as
    # they are (features.raw_values), but for vectors; row r is item_index r + 1
    "catalogue.parquet"
)
ITEMS_FILE = "items.parquet"  # a bundle's, which has item_id in the same order, and more
TOWER_FILE = "user_tower.onnx"  # what only bundles have
FEATURES_FILE = "features.json"  # how values become codes: encoders of item and event features, the clock's zone
ITEM_FEATURES_FILE = (
    # name.codes [T] and name.offsets [V + 1] of bags, name.values [V, W] of numbers, name.price [V] float32
    "item_features.npz"
)
MANIFEST_FILE = "manifest.json"
STATISTICS_FILE = "statistics.json"  # what preparation counted, for the audit and the data card
AUDIT_FILE = "audit.json"
CARD_FILE = "card.html"
CEILING_FILE = "ceiling.json"  # beside it where the data's true distribution is known: metrics of its ranking
FORMAT_VERSION = 4  # another number whenever the same events would be prepared in another way

Array = npt.NDArray[Any]

ARRAYS: dict[str, str] = {
    "item_index": "int32",  # [E] 1..V
    "event_type": "uint8",  # [E] position in manifest["event_types"]
    "timestamp": "int64",  # [E] milliseconds, or the source's own ordinal
    "offsets": "int64",  # [S + 1] session s is events offsets[s]:offsets[s + 1]
    "train_end": "int64",  # [S] events offsets[s]:train_end[s] are for training
    "validation_end": "int64",  # [S] events train_end[s]:validation_end[s] validate; the rest test
    RETURNING: "uint8",  # [S] 1: the user's first session, 2: there was one before, 0: the user is not known
}


def input_file(name: str) -> str:
    """The file of an event input: [E] unsigned codes, 0 where it is unknown."""
    return f"input_{name}.npy"


@dataclass(frozen=True)
class Prepared:
    """An opened prepared directory; its arrays are memory-mapped and read-only.

    `inputs` holds for each event input (see twotower.core.event_codes) its codes [E].
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
        """V, the catalogue's size; item indices are 1..V."""
        return int(self.manifest["num_items"])

    @property
    def event_types(self) -> list[str]:
        """Names of the event types, by code."""
        return list(self.manifest["event_types"])

    def fit_end(self, validation_too: bool) -> Array:
        """[S] where the events that a model may learn from end."""
        return self.validation_end if validation_too else self.train_end

    def training_mask(self, validation_too: bool) -> Array:
        """[E] True for the events that a model may learn from."""
        end = np.repeat(self.fit_end(validation_too), np.diff(self.offsets))
        return np.arange(len(self.item_index)) < end


def write_prepared(directory: Path, manifest: dict[str, Any]) -> None:
    """Seal `directory`, which holds all other files already, with its manifest.

    `manifest` names the event inputs. The fingerprint is that of what a model learns from; the caller makes the
    directory appear whole (see files.atomic_directory).
    """
    arrays = [f"{name}.npy" for name in ARRAYS] + [input_file(name) for name in manifest["inputs"]]
    names = [*arrays, CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE]
    files = {name: sha256(directory / name) for name in names}
    fingerprint = _fingerprint(files)
    content = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "files": files, **manifest}
    write_json(directory / MANIFEST_FILE, {**content, "sha256": _seal(content)})


def open_prepared(path: str | Path, check: bool = True) -> Prepared:
    """Open a prepared directory after checking each file against the manifest.

    Args:
        path: the directory.
        check: whether to read all files for that; who has just written them need not.

    Raises UserError when a file is missing, changed, or of another format version.
    """
    path = Path(path)
    manifest = read_json(path / MANIFEST_FILE, "a prepared directory")
    remedy = f"delete {path} and prepare the events again"
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise UserError(f"{path / MANIFEST_FILE} has format version {found}, expected {FORMAT_VERSION}; {remedy}")
    if manifest.get("sha256") != _seal({k: v for k, v in manifest.items() if k != "sha256"}):
        raise UserError(f"{path / MANIFEST_FILE} is damaged (its content is not what was written); {remedy}")
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing; {remedy}")
        if check and sha256(path / name) != expected:
            raise UserError(f"{path / name} is damaged (its SHA-256 is not the manifest's); {remedy}")
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    inputs = {name: np.load(path / input_file(name), mmap_mode="r", allow_pickle=False) for name in manifest["inputs"]}
    return Prepared(path=path, manifest=manifest, inputs=inputs, **arrays)


def read_item_features(directory: Path) -> dict[str, Array]:
    """The arrays of ITEM_FEATURES_FILE in a prepared or a run directory, by their names there."""
    file = directory / ITEM_FEATURES_FILE
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is missing or damaged ({error}); prepare the events again") from None


def _seal(content: Mapping[str, Any]) -> str:
    """What tells a damaged manifest from a whole one."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{n}:{h}\n" for n, h in sorted(files.items())).encode()).hexdigest()[:16]
