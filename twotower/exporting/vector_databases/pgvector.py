"""PostgreSQL with pgvector: a table for each version, and a view that has the name and shows one of them.

    select item_id, -(embedding <#> %s) as score from items where price < 50 order by embedding <#> %s limit 20

Numbers are bigint and double precision, texts text, lists text[]. The index is HNSW, with 200 candidates while it is
built; `hnsw.ef_search` (40 by default) bounds how many results it can have, `hnsw.iterative_scan` lets it go on where
a filter rejects them. Shapes: as in database.py.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from twotower.core.arrays import Floats
from twotower.core.errors import UserError
from twotower.core.schema import EMBEDDING, ITEM_ID
from twotower.exporting.vector_databases.database import is_version, versioned
from twotower.serving.bundle_format import COSINE
from twotower.serving.catalogue import ItemId

MOST_DIM = 2000  # that pgvector indexes
EF_SEARCH = 100
ERRORS = (psycopg.Error,)


class PgVector:
    """See database.VectorDatabase.

        database = PgVector("postgresql://user@host/shop", "items", "cosine")

    Args:
        target: address of the database, as libpq reads it; PGPASSWORD has the password.
        name: of the view.
        similarity: cosine or dot.
    """

    def __init__(self, target: str, name: str, similarity: str) -> None:
        self._name = name
        self._operator: LiteralString = "<=>" if similarity == COSINE else "<#>"
        self._class: LiteralString = "vector_cosine_ops" if similarity == COSINE else "vector_ip_ops"
        self._connection = psycopg.connect(target, autocommit=True, connect_timeout=10)
        self._execute("create extension if not exists vector")
        register_vector(self._connection)

    def count(self, version: str) -> int:
        """Return how many items a version has; 0 where there is none of it."""
        if self._execute("select to_regclass(%s)", [f'"{versioned(self._name, version)}"']).fetchone() == (None,):
            return 0
        (number,) = self._execute(self._sql("select count(*) from {}", versioned(self._name, version))).fetchone() or (
            0,
        )
        return int(number)

    def create(self, version: str, columns: pa.Schema, dim: int) -> None:
        """Make an empty version, unless it is there."""
        if dim > MOST_DIM:
            raise UserError(f"the vectors have {dim} numbers; pgvector's index takes {MOST_DIM} at most")
        fields = [sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(_type(f.type))) for f in columns]
        vector = sql.SQL("{} vector({}) not null").format(sql.Identifier(EMBEDDING), sql.Literal(dim))
        key = self._sql("primary key ({})", ITEM_ID)
        body = sql.SQL(", ").join([*fields, vector, key])
        self._execute(
            sql.SQL("create table if not exists {} ({})").format(sql.Identifier(versioned(self._name, version)), body)
        )

    def write(self, version: str, start: int, columns: pa.Table, vectors: Floats) -> None:
        """Copy a batch, whole or not at all."""
        names = sql.SQL(", ").join(map(sql.Identifier, [*columns.column_names, EMBEDDING]))
        table = sql.Identifier(versioned(self._name, version))
        with self._connection.transaction(), self._connection.cursor() as cursor:
            copying = sql.SQL("copy {} ({}) from stdin with (format binary)").format(table, names)
            with cursor.copy(copying) as copy:
                copy.set_types([*(_type(field.type) for field in columns.schema), "vector"])
                for row in zip(*(column.to_pylist() for column in columns.columns), vectors, strict=True):
                    copy.write_row([*row[:-1], Vector(row[-1])])

    def finish(self, version: str) -> None:
        """Build the HNSW index, unless it is there."""
        self._execute(
            sql.SQL("create index if not exists {} on {} using hnsw ({} {}) with (ef_construction = 200)").format(
                sql.Identifier(f"{versioned(self._name, version)}_hnsw"),
                sql.Identifier(versioned(self._name, version)),
                sql.Identifier(EMBEDDING),
                sql.SQL(self._class),
            )
        )
        self._execute(self._sql("analyze {}", versioned(self._name, version)))

    def search(self, version: str, vectors: Floats, k: int) -> Sequence[Sequence[ItemId]]:
        """Return the ids of the best k items of each query [Q, D], best first."""
        query = sql.SQL("select {} from {} order by {} {} %s limit {}").format(
            sql.Identifier(ITEM_ID),
            sql.Identifier(versioned(self._name, version)),
            sql.Identifier(EMBEDDING),
            sql.SQL(self._operator),
            sql.Literal(k),
        )
        self._execute(self._sql("set hnsw.ef_search = {}", EF_SEARCH))
        return [[item for (item,) in self._execute(query, [Vector(vector)]).fetchall()] for vector in vectors]

    def publish(self, version: str) -> None:
        """Let the view show this version, and drop the other ones, in one transaction."""
        tables = self._execute(
            "select relname from pg_class where relkind = 'r' and pg_table_is_visible(oid)"
        ).fetchall()
        names = [name for (name,) in tables if is_version(name, self._name)]
        others = [name for name in names if name != versioned(self._name, version)]
        with self._connection.transaction():
            show = "create or replace view {} as select * from {}"  # keeps what is granted and depends on it
            try:
                with self._connection.transaction():
                    self._execute(self._sql(show, self._name, versioned(self._name, version)))
            except psycopg.errors.InvalidTableDefinition:  # other columns
                self._execute(self._sql("drop view {}", self._name))
                self._execute(self._sql(show, self._name, versioned(self._name, version)))
            for other in others:
                self._execute(self._sql("drop table {}", other))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _sql(self, text: LiteralString, *values: str | int) -> sql.Composed:
        """SQL with names in place of texts, and numbers."""
        return sql.SQL(text).format(*(sql.Identifier(v) if isinstance(v, str) else sql.Literal(v) for v in values))

    def _execute(self, query: Any, values: Sequence[Any] | None = None) -> Any:
        return self._connection.execute(query, values)


def _type(kind: pa.DataType) -> LiteralString:
    """The column's type in PostgreSQL."""
    if pa.types.is_integer(kind):
        return "int8"
    if pa.types.is_floating(kind):
        return "float8"
    return "text[]" if pa.types.is_list(kind) else "text"
