"""Write the next version of a bundle, prove it, and let it answer.

Shapes: V items before, W after, m of them with new vectors, Q golden histories, D embedding dim, H that of items in
histories.
"""

from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.format import open_memmap

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.core.schema import ITEM_ID, ITEMS_FILE
from twotower.serving.bundle import Bundle, write_items
from twotower.serving.golden import new_golden
from twotower.serving.index import build_index
from twotower.serving.manifest import (
    COSINE,
    EMBEDDINGS_FILE,
    GOLDEN_FILE,
    HISTORY_FILE,
    INDEX_FILE,
    OWN_FILE,
    VERSIONS,
    places,
    seal,
)
from twotower.serving.updates.versions import PARENT, VERSION, accept, next_version, number_of, propose
from twotower.serving.verify import verify

ROWS = 2**16  # copied at once
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Vectors(NamedTuple):
    """New vectors of m items."""

    where: Ints  # [m] rows in the new version
    own: Floats  # [m, any] as in OWN_FILE
    candidates: Floats  # [m, D]
    histories: Floats  # [m, H]


class Change(NamedTuple):
    """What is to be of the bundle's items."""

    old: Ints  # [W] each item's row before, -1 where it is new
    columns: pa.Table  # [W] items.parquet but the vectors
    vectors: Vectors | None  # None: all items that stay keep theirs


def write_version(bundle: Bundle, change: Change) -> int:
    """Let the bundle answer from a new version; its number.

    Memory: the columns, the new vectors, and two indexes.

    Raises:
        UserError: the new vectors are none, or the new version does not answer as its vectors say.
    """
    with next_version(bundle.path) as (number, directory):
        vectors = bundle.vectors
        if change.vectors is not None or len(change.old) != len(vectors):
            vectors = _write_vectors(bundle, directory, change)
        write_items(directory / ITEMS_FILE, change.columns, vectors)
        files = {name: f"{VERSIONS}/{number}/{name}" for name in sorted(file.name for file in directory.iterdir())}
        files = {**places(bundle.manifest), **files}
        own_facts = ("format_version", "files", "checksum")
        facts = {key: value for key, value in bundle.manifest.items() if key not in own_facts}
        facts |= {"num_items": len(change.old), VERSION: number, PARENT: number_of(bundle.manifest)}
        candidate = propose(bundle.path, seal(bundle.path, facts, files.values()))
        verify(bundle.path, candidate)
        accept(bundle.path)
    return number


def _write_vectors(bundle: Bundle, directory: Path, change: Change) -> Floats:
    """All files that follow from the vectors; [W, D] as candidates."""
    old, new, ids = change.old, change.vectors, change.columns[ITEM_ID].combine_chunks()
    where, own, candidates, histories = new if new is not None else (None, None, None, None)
    if new is not None:
        _require_vectors(new, ids, bundle.manifest["similarity"])
    before = places(bundle.manifest)
    vectors = history_vectors = _write_rows(directory / EMBEDDINGS_FILE, bundle.vectors, old, where, candidates)
    if HISTORY_FILE in before:
        history_vectors = _write_rows(directory / HISTORY_FILE, bundle.history_vectors, old, where, histories)
    if OWN_FILE in before:
        table = np.load(bundle.file(OWN_FILE), mmap_mode="r", allow_pickle=False)
        _write_rows(directory / OWN_FILE, table, old, where, own)
    golden = read_json(bundle.file(GOLDEN_FILE), "a bundle")
    write_json(directory / GOLDEN_FILE, new_golden(golden, bundle, ids, vectors, history_vectors))
    faiss.write_index(build_index(vectors, bundle.manifest["index"]["factory"]), str(directory / INDEX_FILE))
    return vectors


def _require_vectors(new: Vectors, ids: pa.Array, similarity: str) -> None:
    good = np.isfinite(new.candidates).all(axis=1) & np.isfinite(new.histories).all(axis=1)
    if similarity == COSINE:
        good &= np.abs(np.linalg.norm(new.candidates, axis=1) - 1) < 1e-3
    if not good.all():
        item = ids[int(new.where[np.argmin(good)])].as_py()
        raise UserError(
            f"{int((~good).sum())} of the new or changed items, {item!r} for one, would have no vector: training knew "
            "none of their features' values. Give them some that items of the bundle have, or leave them out"
        )


def _write_rows(file: Path, table: Floats, old: Ints, where: Ints | None, rows: Floats | None) -> Floats:
    """[W, any] the rows `old` of `table`, but `rows` [m] at the places `where`; part by part."""
    written: Any = open_memmap(file, "w+", np.float32, (len(old), table.shape[1]))
    for start in range(0, len(old), ROWS):
        written[start : start + ROWS] = table[np.maximum(old[start : start + ROWS], 0)]
    if where is not None:
        written[where] = rows
    written.flush()
    reopened: Floats = np.load(file, mmap_mode="r", allow_pickle=False)
    return reopened
