"""Load a bundle's items into a vector database, and check what it finds there.

A version of the items is written aside, in batches; it replaces the one before once it finds enough. A load that was
killed goes on behind the batches that are there. The version is named by the bundle's checksum, so a bundle that was
changed, by an export or a delta, is another one.

Shapes: V items, Q golden histories, k results each, D embedding dim.
"""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from twotower.core.arrays import Floats
from twotower.core.errors import UserError, nearest
from twotower.core.files import read_json
from twotower.core.schema import EMBEDDING, ITEMS_FILE
from twotower.exporting.vector_databases.database import DIGITS, VectorDatabase, versioned
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.bundle_format import GOLDEN_FILE
from twotower.serving.catalogue import Catalogue, ItemId, rows_of
from twotower.serving.exact_search import exact_top_k
from twotower.serving.golden_answers import encoded_golden
from twotower.serving.histories import encoded_histories
from twotower.serving.unknown import Unknown
from twotower.serving.user_tower import encode_histories

DATABASES = {"pgvector": "PgVector", "milvus": "Milvus", "qdrant": "Qdrant", "lancedb": "LanceDb"}  # module: class
BATCH = 1000  # items written at once
K = 20  # of the recall
TOLERANCE = 1e-5  # of a score, relative to the largest: a tie with the last result
NAME = re.compile("[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class LoadReport:
    """What was loaded."""

    items: int
    resumed: int  # of these, items that were there already
    recall: float  # at K, over the golden histories
    queries: int  # golden histories

    def __str__(self) -> str:
        """Return a summary for the terminal."""
        before = f", {self.resumed:,} of them were there already" if self.resumed else ""
        return (
            f"{self.items:,} items{before}\n"
            f"recall@{K} {self.recall:.4f} against exact search, {self.queries:,} golden histories"
        )


def load_bundle(bundle_path: Path, kind: str, target: str, name: str = "items", floor: float = 0.95) -> LoadReport:
    """Write a bundle's items to a database, and let `name` answer from them.

    Args:
        bundle_path: the bundle.
        kind: of DATABASES.
        target: its address; see the classes.
        name: of the view, alias or table to search in.
        floor: the least recall; below it the version before goes on answering.

    Raises:
        UserError: another kind or an unfit name; a bundle that is damaged; a database that can't be reached, refuses a
            step or finds too little.
    """
    if kind not in DATABASES:
        hint = nearest(kind, DATABASES) or "."
        raise UserError(f"{kind} is no database that twotower knows{hint} Expected: {', '.join(DATABASES)}")
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}; expected a small letter, then up to 39 small letters, digits and _")
    bundle = open_bundle(bundle_path)
    module: Any = import_module(f"twotower.exporting.vector_databases.{kind}")
    try:
        with closing(getattr(module, DATABASES[kind])(target, name, bundle.manifest["similarity"])) as database:
            return _load(bundle, database, floor)
    except module.ERRORS as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{kind} at {_without_password(target)}: {words}") from error


def _without_password(target: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", target)


def _load(bundle: Bundle, database: VectorDatabase, floor: float) -> LoadReport:
    version, total = str(bundle.manifest["checksum"])[:DIGITS], len(bundle.item_ids)
    resumed = _write(bundle, database, version)
    if (number := database.count(version)) != total:
        raise UserError(
            f"the database counts {number:,} of {total:,} items after the load; delete {versioned('NAME', version)} "
            "there, and load again"
        )
    database.finish(version)
    queries = golden_users(bundle)
    recall = recall_of(database.search(version, queries, K), queries, bundle)
    if recall < floor:
        raise UserError(
            f"recall@{K} is {recall:.4f} against exact search, below --floor {floor:g}: the name goes on answering "
            "from the version before, and the new one stays aside; tune the database's index, and load again"
        )
    database.publish(version)
    return LoadReport(total, resumed, recall, len(queries))


def _write(bundle: Bundle, database: VectorDatabase, version: str) -> int:
    """Write the items that the version lacks, in batches; return how many it had."""
    total, there = len(bundle.item_ids), database.count(version)
    if there == total:
        return there
    file = bundle.file(ITEMS_FILE)
    names = [name for name in pq.read_schema(file).names if name != EMBEDDING]
    columns = _plain(pq.read_table(file, columns=names))
    database.create(version, columns.schema, bundle.vectors.shape[1])
    first = there // BATCH * BATCH  # batches are written in order, so those before it are whole
    with tqdm(total=total, initial=first, desc="load", unit=" items", leave=False, disable=None) as bar:
        for start in range(first, total, BATCH):
            vectors = np.ascontiguousarray(bundle.vectors[start : start + BATCH])
            database.write(version, start, columns.slice(start, BATCH), vectors)
            bar.update(len(vectors))
    return first


def _plain(columns: pa.Table) -> pa.Table:
    """The columns as int64, float64, texts or lists of texts; NaN is null."""
    plain = {}
    for name in columns.column_names:
        column, kind = columns[name], columns.schema.field(name).type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            column = column.cast(pa.int64())
        elif pa.types.is_floating(kind):
            values = column.cast(pa.float64()).to_numpy()
            column = pa.array(np.where(np.isfinite(values), values, np.nan), from_pandas=True)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            column = column.cast(pa.list_(pa.string()))
        else:
            column = column.cast(pa.string())
        plain[name] = column
    return pa.table(plain)


def golden_users(bundle: Bundle) -> Floats:
    """Return [Q, D] the user vectors of the golden histories."""
    ids, codes, now = encoded_golden(read_json(bundle.file(GOLDEN_FILE), "a bundle"), bundle.inputs)
    catalogue = Catalogue(bundle.item_ids, bundle.encoder.form)
    events = encoded_histories(ids, codes, list(bundle.inputs.values()), catalogue, Unknown())
    max_length = int(bundle.manifest["max_length"])
    return encode_histories(bundle.tower, bundle.history_vectors, events._replace(now=now), max_length).vectors


def recall_of(found: Sequence[Sequence[ItemId]], queries: Floats, bundle: Bundle) -> float:
    """Return the share of the best K items by exact search that a database found; ties with the last one count.

    Args:
        found: [Q] ids of each query's results.
        queries: [Q, D] user vectors.
        bundle: its items.
    """
    _, exact = exact_top_k(queries, bundle.vectors, K)
    tolerance = TOLERANCE * max(1.0, float(np.abs(exact).max()))
    hits = 0
    for ids, query, scores in zip(found, queries, exact, strict=True):
        rows = rows_of(pa.array(dict.fromkeys(ids), bundle.item_ids.type), bundle.item_ids)
        hits += int((bundle.vectors[rows[rows >= 0]] @ query >= scores[-1] - tolerance).sum())
    return hits / exact.size
