"""Open a bundle and check that its files fit each other; its format is that of serving.bundle_format.

Shapes: V items, D embedding dim, H that of items in histories.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.arrays import Array, Floats, Ints
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import AGE_DAYS, EMBEDDING, FEATURES_FILE, ITEM_ID, ITEMS_FILE, TOWER_FILE, TRAIN_COUNT
from twotower.serving import bundle_format as fmt
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.index import ItemIndex, check_index
from twotower.serving.user_tower import TOWER_OUTPUT, open_session, padded, padded_feed


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files fit each other.

    open_bundle("bundles/demo").item_ids[:3]
    """

    path: Path
    manifest: dict[str, Any]
    item_ids: pa.Array  # [V] int64 or string
    train_count: Ints  # [V]
    age_days: Array  # [V] NaN where it is unknown
    vectors: Floats  # [V, D]
    history_vectors: Floats  # [V, H]
    index: ItemIndex
    tower: Any  # onnxruntime.InferenceSession
    encoder: EventEncoder

    @property
    def inputs(self) -> dict[str, int]:
        """The number of codes of each event input, in the order of the user tower's input."""
        return {entry["name"]: entry["size"] for entry in self.manifest["inputs"]}

    def file(self, name: str) -> Path:
        """Return the path of a file of this version, by name."""
        return self.path / fmt.paths_by_name(self.manifest)[name]


def write_items(file: Path, columns: pa.Table, vectors: Floats) -> None:
    """Write items.parquet in parts: `columns` [V] (item_id, train_count, age_days, features) and `vectors` [V, D]."""
    kind = pa.list_(pa.float32(), vectors.shape[1])
    schema = columns.schema.insert(1, pa.field(EMBEDDING, kind))
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(vectors), 2**16):
            part = np.ascontiguousarray(vectors[start : start + 2**16])
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), vectors.shape[1])
            rows = columns.slice(start, len(part))
            writer.write_table(rows.add_column(1, pa.field(EMBEDDING, kind), embedding))


def open_bundle(path: str | Path, int8: bool = False, manifest_file: str = fmt.MANIFEST_FILE) -> Bundle:
    """Open a bundle after checking each file against the manifest, and the files against each other.

    Args:
        path: its folder.
        int8: use the user tower with 8-bit weights.
        manifest_file: that of another version than the current one.

    Raises:
        UserError: a file, named in the message, is missing, damaged, of another bundle or of another format version;
            or there is no tower with 8-bit weights.
    """
    path = Path(path)
    manifest = fmt.read_manifest(path, manifest_file)
    file = {name: path / place for name, place in fmt.paths_by_name(manifest).items()}
    num_items, dim, max_length = manifest["num_items"], manifest["dim"], manifest["max_length"]
    if int8 and fmt.TOWER_INT8_FILE not in file:
        raise UserError(
            f"{path} has no {fmt.TOWER_INT8_FILE}: it missed the target recall of the export; leave int8 out"
        )
    vectors = _open_embeddings(file[fmt.EMBEDDINGS_FILE], num_items, dim, manifest["similarity"])
    history_vectors = _open_array(file[fmt.HISTORY_FILE], num_items) if fmt.HISTORY_FILE in file else vectors
    item_ids, train_count, age_days = _open_items(file[ITEMS_FILE], num_items, dim)
    index = _open_index(file[fmt.INDEX_FILE], vectors, manifest["index"])
    sizes = {entry["name"]: entry["size"] for entry in manifest["inputs"]}
    encoder = _open_features(file[FEATURES_FILE], sizes)
    tower_file = file[fmt.TOWER_INT8_FILE if int8 else TOWER_FILE]
    wishes = len(manifest.get("objectives", [])), manifest.get("query_time", False)  # absent in older bundles
    tower = _open_tower(tower_file, history_vectors, dim, max_length, list(sizes.values()), *wishes)
    return Bundle(path, manifest, item_ids, train_count, age_days, vectors, history_vectors, index, tower, encoder)


def _open_array(file: Path, num_items: int) -> Floats:
    """[V, any], memory-mapped."""
    try:
        vectors: Floats = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (ValueError, OSError, EOFError) as error:
        raise fmt.refusal(file, str(error), "a NumPy array") from None
    if vectors.ndim != 2 or len(vectors) != num_items or vectors.dtype != np.float32:
        raise fmt.refusal(file, f"{vectors.dtype} {list(vectors.shape)}", f"float32 of {num_items} rows")
    return vectors


def _open_embeddings(file: Path, num_items: int, dim: int, similarity: str) -> Floats:
    vectors = _open_array(file, num_items)
    if vectors.shape[1] != dim:
        raise fmt.refusal(file, f"{vectors.dtype} {list(vectors.shape)}", f"float32 [{num_items}, {dim}]")
    if similarity == fmt.COSINE and not has_unit_length(vectors):
        raise fmt.refusal(file, "vectors of other lengths", f"length one, as the similarity is {fmt.COSINE}")
    return vectors


def has_unit_length(vectors: Floats) -> bool:
    """Return whether all vectors [n, D] have length one, so that their dot product is the cosine."""
    parts = (vectors[start : start + 2**16] for start in range(0, len(vectors), 2**16))
    return all(bool((np.abs(np.linalg.norm(part, axis=-1) - 1) <= 1e-3).all()) for part in parts)


def _open_items(file: Path, num_items: int, dim: int) -> tuple[pa.Array, Ints, Array]:
    try:
        schema, rows = pq.read_schema(file), pq.read_metadata(file).num_rows
        table = pq.read_table(file, columns=[ITEM_ID, TRAIN_COUNT, AGE_DAYS])
    except (pa.ArrowException, OSError) as error:
        raise fmt.refusal(file, str(error), "a Parquet file") from None
    types = {field.name: field.type for field in schema}
    if rows != num_items:
        raise fmt.refusal(file, f"{rows} items", f"{num_items}")
    numbers = {types.get(name) for name in (TRAIN_COUNT, AGE_DAYS)}
    if types.get(ITEM_ID) not in (pa.int64(), pa.string()) or numbers != {pa.int64()}:
        raise fmt.refusal(file, f"columns {types}", "item_id of int64 or string, train_count and age_days of int64")
    embedding: Any = types.get(EMBEDDING, pa.null())
    if not (pa.types.is_fixed_size_list(embedding) and embedding.list_size == dim):
        raise fmt.refusal(file, f"embedding of type {embedding}", f"lists of {dim} floats")
    ids = table[ITEM_ID].combine_chunks()
    if ids.null_count or len(ids.unique()) < num_items:
        raise fmt.refusal(file, "an item_id twice or none", "one for each item")
    return ids, table[TRAIN_COUNT].to_numpy(), table[AGE_DAYS].to_numpy()


def _open_index(file: Path, vectors: Floats, facts: dict[str, Any]) -> ItemIndex:
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)  # processes share its memory
    except (RuntimeError, MemoryError) as error:
        raise fmt.refusal(file, str(error).splitlines()[-1], "a FAISS index") from None
    mismatch = check_index(index, vectors, facts)
    if mismatch is not None:
        raise fmt.refusal(file, *mismatch)
    return ItemIndex(index, vectors, facts["search"], facts["rerank"])


def _open_features(file: Path, sizes: dict[str, int]) -> EventEncoder:
    features = read_json(file, "a bundle")
    try:
        encoder = EventEncoder(list(sizes), features)
        encoder.codes([{}], np.array([True]))
        encoded = encoder.sizes
    except UserError:  # a time zone that this machine lacks: the file is sound
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise fmt.refusal(file, f"encoders that fail ({error})", f"encoders of {', '.join(sizes)}") from None
    if encoded != sizes:
        raise fmt.refusal(file, f"encoders of {encoded} codes", f"{sizes}")
    return encoder


def _open_tower(
    file: Path, table: Floats, dim: int, max_length: int, sizes: list[int], objectives: int, query_time: bool
) -> Any:
    # Run with the last item, codes and objective, which a tower of smaller tables lacks, and at a time if it takes one.
    last = np.full(2 * max_length, len(table), dtype=np.int64)
    codes = np.tile(np.array(sizes, dtype=np.int64) - 1, (len(last), 1))
    end = np.array([max_length, 2 * max_length])
    try:
        tower = open_session(file)
        history = padded(last, codes, end, np.full(2, max_length), max_length)
        wanted = [entry.name for entry in tower.get_inputs()]
        now = np.full(2, int(query_time))
        (vectors,) = tower.run([TOWER_OUTPUT], padded_feed(table, *history, wanted, objectives, now))
    except Exception as error:  # onnxruntime's own exceptions have no common base
        expected = f"a tower of item vectors of {table.shape[1]} numbers and event inputs of {sizes} codes"
        raise fmt.refusal(file, str(error).splitlines()[0], expected) from None
    if vectors.shape != (2, dim) or vectors.dtype != np.float32:
        raise fmt.refusal(file, f"user vectors {vectors.dtype} {list(vectors.shape)}", f"float32 [2, {dim}]")
    return tower
