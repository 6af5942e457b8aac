"""Milvus: a collection for each version, and an alias that has the name.

    client.search("items", [vector], limit=20, filter='price < 50 and brand in ["a", "b"]', output_fields=["price"])

item_id is the primary key; numbers are INT64 and DOUBLE, texts VARCHAR, lists ARRAY of VARCHAR, all nullable. A feature
whose name is none that Milvus takes for a field is a dynamic one. Shapes: as in database.py.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pymilvus import DataType, MilvusClient, MilvusException

from twotower.core.arrays import Floats
from twotower.core.schema import EMBEDDING, ITEM_ID
from twotower.exporting.vector_databases.database import is_version, versioned
from twotower.serving.bundle_format import COSINE
from twotower.serving.catalogue import ItemId

MOST_BYTES, MOST_VALUES = 65_535, 1024  # of a text and a list, Milvus' own limits and a list's here
FIELD = re.compile(r"[A-Za-z_]\w{0,254}", re.ASCII)
ERRORS = (MilvusException,)


class Milvus:
    """See database.VectorDatabase.

        database = Milvus("http://localhost:19530", "items", "cosine")

    Args:
        target: the server's address, whose token is in MILVUS_TOKEN; or a file, for Milvus Lite.
        name: of the alias.
        similarity: cosine or dot.
    """

    def __init__(self, target: str, name: str, similarity: str) -> None:
        self._name = name
        self._metric = "COSINE" if similarity == COSINE else "IP"
        self._client: Any = MilvusClient(target, token=os.environ.get("MILVUS_TOKEN", ""))

    def count(self, version: str) -> int:
        """Return how many items a version has; 0 where there is none of it."""
        if not self._client.has_collection(versioned(self._name, version)):
            return 0
        self._client.load_collection(versioned(self._name, version))
        (row,) = self._client.query(
            versioned(self._name, version), output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(row["count(*)"])

    def create(self, version: str, columns: pa.Schema, dim: int) -> None:
        """Make an empty version, unless it is there."""
        if self._client.has_collection(versioned(self._name, version)):
            return
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=dim)
        for field in columns:
            if FIELD.fullmatch(field.name):
                more = {"is_primary": True} if field.name == ITEM_ID else {"nullable": True}
                schema.add_field(field.name, **_type(field.type), **more)
        index = self._client.prepare_index_params()
        index.add_index(EMBEDDING, index_type="AUTOINDEX", metric_type=self._metric)
        self._client.create_collection(versioned(self._name, version), schema=schema, index_params=index)

    def write(self, version: str, start: int, columns: pa.Table, vectors: Floats) -> None:
        """Add or replace items."""
        rows = [{**row, EMBEDDING: vector} for row, vector in zip(columns.to_pylist(), vectors.tolist(), strict=True)]
        self._client.upsert(versioned(self._name, version), rows)

    def finish(self, version: str) -> None:
        """Seal what was written; Milvus indexes it."""
        self._client.flush(versioned(self._name, version))
        self._client.load_collection(versioned(self._name, version))

    def search(self, version: str, vectors: Floats, k: int) -> Sequence[Sequence[ItemId]]:
        """Return the ids of the best k items of each query [Q, D], best first."""
        found = self._client.search(
            versioned(self._name, version),
            vectors.tolist(),
            limit=k,
            output_fields=[ITEM_ID],
            consistency_level="Strong",
        )
        return [[hit["entity"][ITEM_ID] for hit in hits] for hits in found]

    def publish(self, version: str) -> None:
        """Let the alias mean this version, in one step, and drop the other ones."""
        names = self._client.list_collections()
        others = [name for name in names if is_version(name, self._name) and name != versioned(self._name, version)]
        aliases = {alias for name in others for alias in self._client.list_aliases(name)["aliases"]}
        if self._name in aliases:
            self._client.alter_alias(versioned(self._name, version), self._name)
        elif self._name not in self._client.list_aliases(versioned(self._name, version))["aliases"]:
            self._client.create_alias(versioned(self._name, version), self._name)
        for name in others:
            self._client.drop_collection(name)

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _type(kind: pa.DataType) -> dict[str, Any]:
    """A field's type and its limits."""
    if pa.types.is_integer(kind):
        return {"datatype": DataType.INT64}
    if pa.types.is_floating(kind):
        return {"datatype": DataType.DOUBLE}
    text = {"max_length": MOST_BYTES}
    if pa.types.is_list(kind):
        return {"datatype": DataType.ARRAY, "element_type": DataType.VARCHAR, "max_capacity": MOST_VALUES, **text}
    return {"datatype": DataType.VARCHAR, **text}
