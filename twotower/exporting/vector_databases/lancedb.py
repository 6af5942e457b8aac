"""LanceDB: versions are tables that are written aside; the name's table is then overwritten with one, in one commit.

    table.search(vector).distance_type("dot").where("price < 50 and brand in ('a', 'b')").limit(20).to_arrow()

Columns have the types of the bundle's items.parquet. Up to EXACT items are searched exactly, more with IVF_HNSW_SQ:
then `nprobes` and `refine_factor` of a search decide on its recall. Shapes: as in database.py.
"""

import os
from collections.abc import Sequence
from typing import Any

import lancedb
import pyarrow as pa

from twotower.core.arrays import Floats
from twotower.core.schema import EMBEDDING, ITEM_ID
from twotower.exporting.vector_databases.database import is_version, versioned
from twotower.serving.bundle_format import COSINE
from twotower.serving.catalogue import ItemId

EXACT = 100_000
VERSION = b"twotower.version"  # in the schema's metadata
ROWS = 2**13
ERRORS = (OSError, RuntimeError, ValueError)  # all that it raises


class LanceDb:
    """See database.VectorDatabase.

        database = LanceDb("vectors/", "items", "cosine")

    Args:
        target: a folder, s3://..., gs://..., az://..., or db://... with the key in LANCEDB_API_KEY.
        name: of the table.
        similarity: cosine or dot.
    """

    def __init__(self, target: str, name: str, similarity: str) -> None:
        self._name = name
        self._metric = "cosine" if similarity == COSINE else "dot"
        self._database: Any = lancedb.connect(target, api_key=os.environ.get("LANCEDB_API_KEY"))

    def count(self, version: str) -> int:
        """Return how many items a version has; 0 where there is none of it."""
        table = self._open(version)
        return 0 if table is None else int(table.count_rows())

    def create(self, version: str, columns: pa.Schema, dim: int) -> None:
        """Make an empty version, unless it is there."""
        if self._open(version) is None:
            vector = pa.field(EMBEDDING, pa.list_(pa.float32(), dim))
            schema = pa.schema([*columns, vector], metadata={VERSION: version.encode()})
            self._database.create_table(versioned(self._name, version), schema=schema)

    def write(self, version: str, start: int, columns: pa.Table, vectors: Floats) -> None:
        """Add a batch, whole or not at all."""
        flat = pa.array(vectors.ravel())
        rows = columns.append_column(EMBEDDING, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        table = self._open(version)
        table.add(rows.cast(table.schema))

    def finish(self, version: str) -> None:
        """Build an index over many items, unless it is there."""
        table = self._open(version)
        if table.count_rows() > EXACT and not table.list_indices():
            table.create_index(metric=self._metric, vector_column_name=EMBEDDING, index_type="IVF_HNSW_SQ")

    def search(self, version: str, vectors: Floats, k: int) -> Sequence[Sequence[ItemId]]:
        """Return the ids of the best k items of each query [Q, D], best first."""
        table = self._open(version)
        return [
            table.search(vector, vector_column_name=EMBEDDING)
            .distance_type(self._metric)
            .limit(k)
            .select([ITEM_ID, "_distance"])
            .to_arrow()[ITEM_ID]
            .to_pylist()
            for vector in vectors
        ]

    def publish(self, version: str) -> None:
        """Overwrite the name's table with this version, in one commit, and drop what lies aside."""
        aside, table = self._table(versioned(self._name, version)), self._open(version)
        if aside is not None and table.name == aside.name:
            rows = aside.search().to_batches(ROWS)
            self._database.create_table(self._name, data=rows, schema=aside.schema, mode="overwrite")
            self.finish(version)
        for name in self._names():
            if is_version(name, self._name):
                self._database.drop_table(name)

    def close(self) -> None:
        """Do nothing: a table is opened for each call."""

    def _open(self, version: str) -> Any:
        """The table of a version: the name's where it has that one, else the one aside; None where there is none."""
        table = self._table(self._name)
        published = table is not None and (table.schema.metadata or {}).get(VERSION) == version.encode()
        return table if published else self._table(versioned(self._name, version))

    def _table(self, name: str) -> Any:
        return self._database.open_table(name) if name in self._names() else None

    def _names(self) -> list[str]:
        page = self._database.list_tables()
        names = [*page.tables]
        while page.page_token:
            page = self._database.list_tables(page_token=page.page_token)
            names += page.tables
        return names
