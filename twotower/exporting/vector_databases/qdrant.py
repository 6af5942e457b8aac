"""Qdrant: a collection for each version, and an alias that has the name.

    client.query_points("items", query=vector, limit=20, query_filter=Filter(must=[
        FieldCondition(key="price", range=Range(lte=50)), FieldCondition(key="brand", match=MatchAny(any=["a", "b"]))]))

A point's id is the item's row in the catalogue; its payload has item_id and the features that have a value, with
an index for each of them. Shapes: as in database.py.
"""

import os
from collections.abc import Sequence

import pyarrow as pa
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from twotower.core.arrays import Floats
from twotower.core.schema import ITEM_ID
from twotower.exporting.vector_databases.database import is_version, versioned
from twotower.serving.bundle_format import COSINE
from twotower.serving.catalogue import ItemId

ERRORS = (ApiException, OSError, RuntimeError)  # a folder in use is a RuntimeError


class Qdrant:
    """See database.VectorDatabase.

        database = Qdrant("http://localhost:6333", "items", "cosine")

    Args:
        target: the server's address, whose key is in QDRANT_API_KEY; or a folder, for the client's local mode.
        name: of the alias.
        similarity: cosine or dot.
    """

    def __init__(self, target: str, name: str, similarity: str) -> None:
        self._name = name
        self._is_remote = "://" in target
        self._distance = models.Distance.COSINE if similarity == COSINE else models.Distance.DOT
        key = os.environ.get("QDRANT_API_KEY")
        self._client = (
            QdrantClient(url=target, api_key=key, check_compatibility=False)
            if self._is_remote
            else QdrantClient(path=target)
        )

    def count(self, version: str) -> int:
        """Return how many items a version has; 0 where there is none of it."""
        collection = versioned(self._name, version)
        return self._client.count(collection, exact=True).count if self._client.collection_exists(collection) else 0

    def create(self, version: str, columns: pa.Schema, dim: int) -> None:
        """Make an empty version, unless it is there."""
        collection = versioned(self._name, version)
        if not self._client.collection_exists(collection):
            vectors = models.VectorParams(size=dim, distance=self._distance)
            self._client.create_collection(collection, vectors_config=vectors)
        if self._is_remote:  # local mode has none
            for field in columns:
                self._client.create_payload_index(collection, field.name, field_schema=_type(field.type))

    def write(self, version: str, start: int, columns: pa.Table, vectors: Floats) -> None:
        """Add or replace points."""
        payloads = [{key: v for key, v in row.items() if v is not None} for row in columns.to_pylist()]
        ids: list[int | str] = [*range(start, start + len(vectors))]
        batch = models.Batch.model_construct(ids=ids, vectors=vectors.tolist(), payloads=payloads)
        self._client.upsert(versioned(self._name, version), points=batch, wait=True)

    def finish(self, version: str) -> None:
        """Do nothing: the server indexes while it gets points."""

    def search(self, version: str, vectors: Floats, k: int) -> Sequence[Sequence[ItemId]]:
        """Return the ids of the best k items of each query [Q, D], best first."""
        requests = [
            models.QueryRequest(
                query=vector.tolist(), limit=k, with_payload=models.PayloadSelectorInclude(include=[ITEM_ID])
            )
            for vector in vectors
        ]
        found = self._client.query_batch_points(versioned(self._name, version), requests=requests)
        return [[(point.payload or {})[ITEM_ID] for point in answer.points] for answer in found]

    def publish(self, version: str) -> None:
        """Let the alias mean this version, in one step, and delete the other ones."""
        create = models.CreateAlias(collection_name=versioned(self._name, version), alias_name=self._name)
        former = [alias for alias in self._client.get_aliases().aliases if alias.alias_name == self._name]
        remove = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=a.alias_name)) for a in former]
        self._client.update_collection_aliases([*remove, models.CreateAliasOperation(create_alias=create)])
        for collection in self._client.get_collections().collections:
            if is_version(collection.name, self._name) and collection.name != versioned(self._name, version):
                self._client.delete_collection(collection.name)

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def _type(kind: pa.DataType) -> models.PayloadSchemaType:
    """The payload index's type."""
    if pa.types.is_integer(kind):
        return models.PayloadSchemaType.INTEGER
    return models.PayloadSchemaType.FLOAT if pa.types.is_floating(kind) else models.PayloadSchemaType.KEYWORD
