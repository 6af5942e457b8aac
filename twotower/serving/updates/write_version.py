"""Write the next version of a bundle, verify it, and make it the current one.

Shapes: V items before, W after, m of them with new vectors, D embedding dim, H that of items in histories.
"""

from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
from numpy.lib.format import open_memmap

from twotower.core.arrays import Floats, Ints
from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.core.schema import ITEM_ID, ITEMS_FILE
from twotower.serving import bundle_format as fmt
from twotower.serving.bundle import Bundle, write_items
from twotower.serving.contract import contract
from twotower.serving.golden_answers import updated_golden
from twotower.serving.index import build_index
from twotower.serving.updates.versions import PARENT, VERSION, accept, next_version, number_of, propose
from twotower.serving.verify import verify

ROWS = 2**16  # copied at once


class NewVectors(NamedTuple):
    """New vectors of m items."""

    row: Ints  # [m] in the new version
    id_embeddings: Floats  # [m, any] rows of id_embeddings.npy
    candidates: Floats  # [m, D]
    histories: Floats  # [m, H]


class Change(NamedTuple):
    """The items of the new version."""

    old_row: Ints  # [W] each item's row before, -1 where it is new
    columns: pa.Table  # [W] items.parquet without the vectors
    vectors: NewVectors | None  # None: the items keep theirs


def write_version(bundle: Bundle, change: Change) -> int:
    """Write and verify a new version, make it the current one, and return its number.

    Memory: the columns, the new vectors, and two indexes.

    Raises:
        UserError: an item would have no vector, or the new version does not answer as its vectors say.
    """
    with next_version(bundle.path) as (number, directory):
        vectors = bundle.vectors
        if change.vectors is not None or len(change.old_row) != len(vectors):
            vectors = _write_vectors(bundle, directory, change)
        write_items(directory / ITEMS_FILE, change.columns, vectors)
        files = {name: f"{fmt.VERSIONS}/{number}/{name}" for name in sorted(file.name for file in directory.iterdir())}
        files = {**fmt.paths_by_name(bundle.manifest), **files}
        facts = {k: v for k, v in bundle.manifest.items() if k not in ("format_version", "files", "checksum")}
        facts |= {"num_items": len(change.old_row), VERSION: number, PARENT: number_of(bundle.manifest)}
        golden = read_json(bundle.path / files[fmt.GOLDEN_FILE], "a bundle")
        facts["requests"] = contract(bundle.encoder, change.columns, golden)
        candidate = propose(bundle.path, fmt.seal(bundle.path, facts, files.values()))
        verify(bundle.path, candidate)
        accept(bundle.path)
    return number


def _write_vectors(bundle: Bundle, directory: Path, change: Change) -> Floats:
    """Write all files that depend on the vectors; returns [W, D] as candidates."""
    ids, new = change.columns[ITEM_ID].combine_chunks(), change.vectors
    if new is not None:
        _require_vectors(new, ids, bundle.manifest["similarity"])
    candidates, histories, id_embeddings = (new.candidates, new.histories, new.id_embeddings) if new else [None] * 3
    vectors = history_vectors = _write_rows(directory / fmt.EMBEDDINGS_FILE, bundle.vectors, change, candidates)
    names = fmt.paths_by_name(bundle.manifest)
    if fmt.HISTORY_FILE in names:
        history_vectors = _write_rows(directory / fmt.HISTORY_FILE, bundle.history_vectors, change, histories)
    if fmt.ID_EMBEDDINGS_FILE in names:
        before = np.load(bundle.file(fmt.ID_EMBEDDINGS_FILE), mmap_mode="r", allow_pickle=False)
        _write_rows(directory / fmt.ID_EMBEDDINGS_FILE, before, change, id_embeddings)
    golden = read_json(bundle.file(fmt.GOLDEN_FILE), "a bundle")
    write_json(directory / fmt.GOLDEN_FILE, updated_golden(golden, bundle, ids, vectors, history_vectors))
    faiss.write_index(build_index(vectors, bundle.manifest["index"]["factory"]), str(directory / fmt.INDEX_FILE))
    return vectors


def _require_vectors(new: NewVectors, ids: pa.Array, similarity: str) -> None:
    is_valid = np.isfinite(new.candidates).all(axis=1) & np.isfinite(new.histories).all(axis=1)
    if similarity == fmt.COSINE:
        is_valid &= np.abs(np.linalg.norm(new.candidates, axis=1) - 1) < 1e-3
    if not is_valid.all():
        item = ids[int(new.row[np.argmin(is_valid)])].as_py()
        raise UserError(
            f"{int((~is_valid).sum())} of the new or changed items, {item!r} for one, would have no vector: training "
            "knew none of their features' values. Give them some that items of the bundle have, or leave them out"
        )


def _write_rows(file: Path, before: Floats, change: Change, new_rows: Floats | None) -> Floats:
    """Write [W, any] the rows `change.old_row` of `before`, with `new_rows` [m] where vectors are new, in parts."""
    size = len(change.old_row)
    written: Any = open_memmap(file, "w+", np.float32, (size, before.shape[1]))
    for start in range(0, size, ROWS):
        written[start : start + ROWS] = before[np.maximum(change.old_row[start : start + ROWS], 0)]
    if change.vectors is not None:
        written[change.vectors.row] = new_rows
    written.flush()
    reopened: Floats = np.load(file, mmap_mode="r", allow_pickle=False)
    return reopened
