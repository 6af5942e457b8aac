"""The bundle (hand-off 3): what serving works from, and the one place that writes, opens and checks it.

    item_embeddings.npy   [V, D] float32; row r is item_index r + 1
    items.parquet         item_id (int64 or string), embedding (D float32), train_count; in the same order
    index.faiss           exact inner-product index over the embeddings
    user_tower.onnx       item_index [batch, length] int64, PAD on the right, and with event inputs event_inputs
                          [batch, length, K] int64, their codes -> user_vector [batch, D] float32
    features.json         how events become codes: the clock's zone, event types, encoders of event features
    golden.json           histories of the run's validation data with the trained model's own answers
    manifest.json         what the bundle is, where it comes from, and the SHA-256 of each file above

The similarity is in the vectors: with `cosine` all have length one, so a dot product ranks in both cases.
The vectors lie on disk four times: as an array, for people in Parquet, in the index, in the user tower.
Shapes: V items, D embedding dim, E events, B histories, L history length of the longest, K event inputs.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.batch import gather, history_positions
from twotower.errors import UserError
from twotower.files import read_json, sha256, write_json
from twotower.schema import FEATURES_FILE, ITEMS_FILE, TOWER_FILE
from twotower.serving.events import EventEncoder

EMBEDDINGS_FILE = "item_embeddings.npy"
INDEX_FILE = "index.faiss"
GOLDEN_FILE = "golden.json"
MANIFEST_FILE = "manifest.json"
FILES = (EMBEDDINGS_FILE, ITEMS_FILE, INDEX_FILE, TOWER_FILE, FEATURES_FILE, GOLDEN_FILE)  # all but the manifest
FORMAT_VERSION = 2
FACTS = ("similarity", "dim", "num_items", "max_length", "inputs")  # what serving reads from the manifest
COSINE, DOT = "cosine", "dot"
TOWER_INPUT, TOWER_CODES, TOWER_OUTPUT = "item_index", "event_inputs", "user_vector"
REMEDY = "copy the bundle again, or export the run again: python export.py run=RUN"

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files fit each other."""

    path: Path
    manifest: dict[str, Any]
    item_ids: pa.Array  # [V] int64 or string
    train_count: npt.NDArray[np.int64]  # [V]
    index: Any  # faiss.IndexFlatIP of the [V, D] embeddings
    tower: Any  # onnxruntime.InferenceSession
    encoder: EventEncoder

    @property
    def inputs(self) -> dict[str, int]:
        """How many codes each event input has, in the order in which the user tower takes them."""
        return {entry["name"]: entry["size"] for entry in self.manifest["inputs"]}


def write_bundle(
    directory: Path,
    vectors: Floats,
    item_ids: pa.Array,
    train_count: Array,
    index: Any,
    features: dict[str, Any],
    golden: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """Write all files into `directory`, which holds the user tower already; the manifest comes last.

    The caller makes the directory appear whole (see files.atomic_directory).

    Args:
        vectors: [V, D].
        item_ids: [V] int64 or string.
        train_count: [V].
        index: faiss index over `vectors`.
        features: what FEATURES_FILE of a run says about events.
        golden: k, histories (lists of ids; with event inputs of {"item_id": id, "codes": {input: code}}), ids, scores.
        facts: the manifest's own part; FACTS at least. `inputs` is a list of {"name": name, "size": codes}, in the
            order in which the user tower takes them.
    """
    np.save(directory / EMBEDDINGS_FILE, vectors, allow_pickle=False)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    items = {"item_id": item_ids, "embedding": embedding, "train_count": pa.array(train_count, pa.int64())}
    pq.write_table(pa.table(items), directory / ITEMS_FILE)
    faiss.write_index(index, str(directory / INDEX_FILE))
    write_json(directory / FEATURES_FILE, features)
    write_json(directory / GOLDEN_FILE, golden)
    files = {name: sha256(directory / name) for name in FILES}
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": files}
    write_json(directory / MANIFEST_FILE, {**manifest, "checksum": checksum(manifest)})


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 over all of the manifest but the checksum itself, so that damage to any fact shows."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle after checking each file against the manifest, and the files against each other.

    Raises:
        UserError: a file, named in the message, is missing, damaged, of another bundle or of a newer format.
    """
    path = Path(path)
    manifest = _open_manifest(path)
    num_items, dim = manifest["num_items"], manifest["dim"]
    vectors = _open_embeddings(path / EMBEDDINGS_FILE, num_items, dim, manifest["similarity"])
    item_ids, train_count = _open_items(path / ITEMS_FILE, num_items, dim)
    index = _open_index(path / INDEX_FILE, vectors)
    sizes = {entry["name"]: entry["size"] for entry in manifest["inputs"]}
    encoder = _open_features(path / FEATURES_FILE, sizes)
    tower = _open_tower(path / TOWER_FILE, num_items, dim, manifest["max_length"], list(sizes.values()))
    return Bundle(path, manifest, item_ids, train_count, index, tower, encoder)


def _open_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST_FILE
    manifest = read_json(file, "a bundle")
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{file} has format version {version}, this twotower reads {FORMAT_VERSION}; install a newer twotower"
        )
    if version != FORMAT_VERSION:
        raise _refusal(file, f"format version {version}", f"{FORMAT_VERSION}")
    if manifest.get("checksum") != checksum(manifest):
        raise _refusal(file, "contents that do not fit its own checksum", "a manifest as the export wrote it")
    if set(manifest.get("files", ())) != set(FILES) or not manifest.keys() >= set(FACTS):
        raise _refusal(file, "other keys", f"the files {', '.join(FILES)} and the facts {', '.join(FACTS)}")
    if manifest["similarity"] not in (COSINE, DOT):
        raise _refusal(file, f"similarity {manifest['similarity']}", f"{COSINE} or {DOT}")
    inputs = manifest["inputs"]
    if not (isinstance(inputs, list) and all(_is_input(entry) for entry in inputs)):
        raise _refusal(file, f"inputs {inputs!r}", "a list of names with sizes")
    for name in FILES:
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing; {REMEDY}")
        if sha256(path / name) != manifest["files"][name]:
            raise _refusal(path / name, "another SHA-256", "the manifest's (it is damaged or of another bundle)")
    return dict(manifest)


def _is_input(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and type(entry.get("size")) is int


def _open_embeddings(file: Path, num_items: int, dim: int, similarity: str) -> Floats:
    try:
        vectors: Floats = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _refusal(file, str(error), "a NumPy array") from None
    if vectors.shape != (num_items, dim) or vectors.dtype != np.float32:
        raise _refusal(file, f"{vectors.dtype} {list(vectors.shape)}", f"float32 [{num_items}, {dim}]")
    if similarity == COSINE and not has_unit_length(vectors):
        raise _refusal(file, "vectors of other lengths", f"length one, as the similarity is {COSINE}")
    return vectors


def has_unit_length(vectors: Floats) -> bool:
    """Whether all vectors [..., D] have length one, as cosine similarity by dot product needs."""
    return bool((np.abs(np.linalg.norm(vectors, axis=-1) - 1) <= 1e-3).all())


def _open_items(file: Path, num_items: int, dim: int) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    try:
        schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
        table = pq.read_table(file, columns=["item_id", "train_count"])
    except (pa.ArrowException, OSError) as error:
        raise _refusal(file, str(error), "a Parquet file") from None
    types = {field.name: field.type for field in schema}
    if rows != num_items:
        raise _refusal(file, f"{rows} items", f"{num_items}")
    if types.get("item_id") not in (pa.int64(), pa.string()) or types.get("train_count") != pa.int64():
        raise _refusal(file, f"columns {types}", "item_id of int64 or string, train_count of int64")
    embedding: Any = types.get("embedding", pa.null())
    if not (pa.types.is_fixed_size_list(embedding) and embedding.list_size == dim):
        raise _refusal(file, f"embedding of type {embedding}", f"lists of {dim} floats")
    ids = table["item_id"].combine_chunks()
    if ids.null_count or len(ids.unique()) < num_items:
        raise _refusal(file, "an item_id twice or none", "one for each item")
    return ids, table["train_count"].to_numpy()


def _open_index(file: Path, vectors: Floats) -> Any:
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise _refusal(file, str(error).splitlines()[-1], "a FAISS index") from None
    if (index.ntotal, index.d) != vectors.shape:
        raise _refusal(file, f"{index.ntotal} vectors of dim {index.d}", f"{vectors.shape[0]} of {vectors.shape[1]}")
    if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise _refusal(file, f"{type(index).__name__} of metric {index.metric_type}", "IndexFlatIP (inner product)")
    stored = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)  # a view, nothing is copied
    if not np.array_equal(stored, vectors.reshape(-1)):
        raise _refusal(file, "other vectors", f"those of {EMBEDDINGS_FILE}")
    return index


def _open_features(file: Path, sizes: dict[str, int]) -> EventEncoder:
    features = read_json(file, "a bundle")
    try:
        encoder = EventEncoder(list(sizes), features)
        encoder.codes([{}], np.array([True]))
        found = encoder.sizes
    except UserError:  # a time zone that this machine lacks: the file is in order
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _refusal(file, f"no encoder that works ({error})", f"encoders of {', '.join(sizes)}") from None
    if found != sizes:
        raise _refusal(file, f"encoders of {found} codes", f"{sizes}")
    return encoder


def _open_tower(file: Path, num_items: int, dim: int, max_length: int, sizes: list[int]) -> Any:
    # The last item and the last codes: the tables of another catalogue or of other inputs end elsewhere.
    last = np.full(2 * max_length, num_items, dtype=np.int64)
    codes = np.tile(np.array(sizes, dtype=np.int64) - 1, (len(last), 1))
    end = np.array([max_length, 2 * max_length])
    try:
        tower = open_session(file)
        (vectors,) = tower.run([TOWER_OUTPUT], tower_feed(last, codes, end, np.full(2, max_length), max_length))
    except Exception as error:  # onnxruntime's own exceptions have no common base
        expected = f"a tower of {num_items} items and event inputs of {sizes} codes"
        raise _refusal(file, str(error).splitlines()[0], expected) from None
    if vectors.shape != (2, dim) or vectors.dtype != np.float32:
        raise _refusal(file, f"user vectors {vectors.dtype} {list(vectors.shape)}", f"float32 [2, {dim}]")
    return tower


def tower_feed(
    item_index: Array, codes: Array, end: Array, available: Array, max_length: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Histories as the user tower takes them.

    Args:
        item_index: [E] of all histories, one after the other.
        codes: [E, K] of the event inputs.
        end, available, max_length: [B], [B] and the longest history kept, as in build_history.

    Returns:
        TOWER_INPUT: [B, L] item_index and, unless K is 0, TOWER_CODES: [B, L, K].
    """
    position, valid = history_positions(end, available, max_length)
    feed = {TOWER_INPUT: gather(item_index, position, valid)}
    if codes.shape[1]:
        feed[TOWER_CODES] = np.stack([gather(column, position, valid) for column in codes.T], axis=-1)
    return feed


def open_session(file: Path) -> Any:
    """An onnxruntime session on the processor's cores; thread-safe. Raises onnxruntime's own exceptions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    # Idle threads sleep: spinning, they would take the cores that the index search needs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _refusal(file: Path, found: str, expected: str) -> UserError:
    return UserError(f"{file} has {found}; expected {expected}. {REMEDY[0].upper()}{REMEDY[1:]}")
