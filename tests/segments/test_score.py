"""Scores of a batch against Retriever.recommend, asked user by user; what a kill leaves; what is refused."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundle_files import finish_bundle
from onnx import TensorProto, helper, numpy_helper
from serving_oracle import DIM, MAX_LENGTH, NOTHING, toy_tables, toy_tower

from twotower.core.errors import UserError
from twotower.segments import batch_answers, score, user_histories
from twotower.segments.batch_answers import Scoring
from twotower.segments.score import score_users
from twotower.serving.retriever import Retriever

ITEMS, USERS = 40, 60
DAY = 86_400_000
TYPES = ["view", "cart", "purchase"]
Rows = list[dict[str, Any]]


def write_bundle(
    directory: Path, vectors: np.ndarray[Any, Any], tower: Any, facts: Mapping[str, Any], features: Mapping[str, Any]
) -> Path:
    random = np.random.default_rng(0)
    onnx.save(tower, directory / "user_tower.onnx")
    np.save(directory / "item_embeddings.npy", vectors)
    columns = {
        "item_id": pa.array(range(100, 100 + ITEMS)),
        "train_count": pa.array(random.integers(1, 5, ITEMS)),
        "age_days": pa.array([0] * ITEMS),
        "brand": pa.array([f"b{row % 4}" for row in range(ITEMS)]),
        "price": pa.array(random.uniform(0, 100, ITEMS)),
    }
    golden = {"k": 1, "histories": [[100]], "ids": [[100]], "scores": [[0.0]]}
    facts = {"similarity": "dot", "max_length": MAX_LENGTH, "inputs": [], **facts}
    finish_bundle(directory, pa.table(columns), vectors, features, golden, facts)
    return directory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of small whole numbers, so that scores are exact and many are equal; ids are numbers."""
    vectors = np.random.default_rng(0).integers(-1, 2, (ITEMS, DIM)).astype(np.float32)
    return write_bundle(tmp_path_factory.mktemp("ties"), vectors, toy_tower(DIM), {}, NOTHING)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Event inputs, a pointer, objectives and a query time, each of which changes the answers."""
    sizes = {"event_type": len(TYPES) + 1, "time": 10**11}
    model = toy_tower(DIM, toy_tables({"event_type": sizes["event_type"], "time": 2}))
    graph = model.graph
    by_output = {node.output[0]: node for node in graph.node}  # times are no places in a table
    by_output["code_1"].CopyFrom(helper.make_node("Mul", ["code_0", "zero"], ["code_1"]))
    graph.node[-1].output[0] = "summed"
    for name, value in {"half": 0.5, "late": 1e-8, "hot": 1.0}.items():
        graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    flat, square = ["batch"], ["batch", "length"]
    for name, shape in (("objective", flat), ("now", flat), ("occurrences", square)):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, shape))
    graph.node.extend(
        [
            helper.make_node("Cast", ["objective"], ["asked"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["now"], ["moment"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["moment", "late"], ["later"]),
            helper.make_node("Add", ["asked", "later"], ["both"]),
            helper.make_node("Unsqueeze", ["both", "column"], ["shift"]),
            helper.make_node("Add", ["summed", "shift"], ["user_vector"]),
            helper.make_node("Cast", ["occurrences"], ["often"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["often", "half"], ["pointer"]),
            helper.make_node("Identity", ["hot"], ["temperature"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("pointer", TensorProto.FLOAT, square))
    graph.output.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, []))
    vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
    inputs = [{"name": name, "size": size} for name, size in sizes.items()]
    facts = {"inputs": inputs, "objectives": TYPES, "query_time": True}
    features = {**NOTHING, "event_types": TYPES, "input_types": [1, 2, 3]}
    return write_bundle(tmp_path_factory.mktemp("rich"), vectors, model, facts, features)


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (user_histories, "HISTORIES", 9),
        (user_histories, "EVENTS", 70),
        (score, "USERS", 25),
        (batch_answers, "NUMBERS", 400),
    ):
        monkeypatch.setattr(module, name, value)


def events_of(items: Sequence[Any], unknown: Any, users: int = USERS, seed: int = 1) -> Rows:
    """Of each user one event to twelve, some of an unknown item, in no order; the first user has that item alone."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "user_id": f"u{user:02}",
            "item_id": unknown if user == 0 or random.random() < 0.1 else items[random.integers(len(items))],
            "timestamp": 1_700_000_000_000 + int(random.integers(100 * DAY)),
            "event_type": TYPES[random.integers(3)],
            "device": ["phone", "desktop"][random.integers(2)],
        }
        for user in range(users)
        for _ in range(random.integers(1, 13))
    ]
    return [rows[place] for place in random.permutation(len(rows))]


def write(file: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=50)
    return file


def histories(events: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for event in events:
        found.setdefault(event["user_id"], []).append(event)
    return {user: sorted(mine, key=lambda event: event["timestamp"]) for user, mine in found.items()}


def written(out: Path) -> dict[str, list[tuple[Any, float | None]]]:
    """Each user's items and scores, in the order of the files; the ranks are 1, 2, 3 ..."""
    found: dict[str, list[tuple[Any, float | None]]] = {}
    for row in pq.read_table(out).to_pylist():
        assert list(row) == ["user_id", "rank", "item_id", "score"]
        found.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
        assert row["rank"] == len(found[row["user_id"]])
    return found


def served(retriever: Retriever, history: Any, **asked: Any) -> list[tuple[Any, float | None]]:
    result = retriever.recommend([history], **asked)
    return [(i, None if np.isnan(s) else float(s)) for i, s in zip(result.ids[0], result.scores[0], strict=False)]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all items": {"k": 1000},
    "seen": {"exclude_seen": True, "k": 7},
    "filters": {"filters": {"price": {"max": 50}, "not": {"brand": "b1"}}, "max_per": {"brand": 2}, "k": 5},
    "lists": {"k": 6, "exclude_seen": True, "filters": {"brand": ["b0", "b2"]}},
}


@pytest.mark.parametrize("name", CASES)
def test_each_user_gets_what_recommend_answers(bundle: Path, tmp_path: Path, name: str) -> None:
    events = events_of(range(100, 100 + ITEMS), unknown=7)
    asked, lists = CASES[name], histories(events)
    gone, kept = [100, 105, 117, 9999], list(range(100, 135))
    random = np.random.default_rng(3)
    bought = [(user, int(random.integers(100, 100 + ITEMS))) for user in lists for _ in range(random.integers(0, 9))]
    tables: dict[str, Any] = {}
    if name == "lists":
        write(tmp_path / "gone.parquet", [{"item_id": item} for item in gone])
        write(tmp_path / "kept.parquet", [{"item_id": item} for item in kept])
        lines = [f"{user},{item}.0" for user, item in [*bought, ("nobody", 100), ("u01", 5)]]
        (tmp_path / "bought.csv").write_text("\n".join(["user_id,item_id", *lines]))
        tables = {"exclude": [str(tmp_path / "gone.parquet"), str(tmp_path / "bought.csv")]}
        tables["include"] = str(tmp_path / "kept.parquet")
    path = write(tmp_path / "events.parquet", [*events, {**events[0], "item_id": None}])
    report = score_users(bundle, path, tmp_path / "out", Scoring(**asked, **tables))

    retriever, found = Retriever.load(bundle), written(tmp_path / "out")
    for user, mine in lists.items():
        wishes: dict[str, Any] = dict(asked)
        if tables:
            wishes |= {"include": kept, "exclude": [[*gone, *(item for owner, item in bought if owner == user)]]}
        expected = served(retriever, mine, **wishes)
        mine_found = found.get(user, [])
        assert [s for _, s in mine_found] == [s for _, s in expected], user
        # Among items that tie with the last one, an index may find others where it was asked for more.
        last = expected[-1][1] if wishes.get("exclude_seen") and expected else math.nan
        differ = [(i, s) for (i, s), other in zip(mine_found, expected, strict=True) if i != other[0]]
        assert all(s == last for _, s in differ), user
        assert {*mine_found} <= {*served(retriever, mine, **{**wishes, "k": ITEMS})}, user
    assert [*found] == [user for user in lists if user in found]  # in the order of the users' first events
    size, k = [len(found.get(user, [])) for user in lists], asked.get("k", 20)
    assert (report.users, report.rows, report.unknown, report.unusable) == (len(lists), sum(size), 1, 1)
    assert (report.short, report.without) == (sum(n < k for n in size), size.count(0))
    assert report.skipped == sum(event["item_id"] == 7 for event in events)
    assert report.omitted == (3 if tables else 0)
    assert "1 users have no item of the bundle" in str(report) and "1 events were left out" in str(report)
    assert sorted(file.name for file in (tmp_path / "out").iterdir())[:2] == ["_score.json", "part-00000.parquet"]
    assert json.loads((tmp_path / "out" / "_score.json").read_text())["rows"] == report.rows


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"exclude_seen": True, "objective": "purchase"},
        {"objective": {"view": 0.25, "cart": 0.75}, "timestamp": 1_800_000_000_000, "k": 5},
    ],
)
def test_a_model_s_pointer_inputs_objective_and_time_are_used(
    rich: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    events = events_of(range(100, 100 + ITEMS), unknown=7)
    path, retriever = write(tmp_path / "events.parquet", events), Retriever.load(rich)
    score_users(rich, path, tmp_path / "out", Scoring(**asked), threads=2)
    found, others = written(tmp_path / "out"), 0
    for user, mine in histories(events).items():
        expected = served(retriever, mine, **asked)
        assert [item for item, _ in found[user]] == [item for item, _ in expected], user
        if user != "u00":
            assert [s for _, s in found[user]] == pytest.approx([s for _, s in expected], rel=1e-5, abs=1e-4)
        others += expected != served(retriever, [event["item_id"] for event in mine])
    assert others > USERS / 2  # what is asked for matters


def test_a_killed_batch_goes_on_and_another_request_starts_over(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "events.parquet", events_of(range(100, 100 + ITEMS), unknown=7))
    whole = score_users(bundle, path, tmp_path / "whole", Scoring(k=3))
    out, unfinished = tmp_path / "out", tmp_path / ".out.unfinished"
    answers, calls = score.answers, []

    def dies(*arguments: Any) -> pa.Table:
        calls.append(arguments[2])
        if len(calls) == 6:  # within the second file
            raise KeyboardInterrupt
        return answers(*arguments)

    def killed(scoring: Scoring) -> None:
        calls.clear()
        monkeypatch.setattr(score, "answers", dies)
        with pytest.raises(KeyboardInterrupt):
            score_users(bundle, path, out, scoring)
        monkeypatch.setattr(score, "answers", answers)
        assert not out.exists() and (unfinished / "part-00000.parquet").exists()

    killed(Scoring(k=3))
    before = (unfinished / "part-00000.parquet").stat().st_ino
    report = score_users(bundle, path, out, Scoring(k=3))
    assert (out / "part-00000.parquet").stat().st_ino == before and not unfinished.exists()
    assert written(out) == written(tmp_path / "whole")
    assert report == replace(whole, path=out, resumed=1) and "1 files were there already" in str(report)
    with pytest.raises(UserError, match="exists already"):
        score_users(bundle, path, out, Scoring())

    out = tmp_path / "other"
    unfinished = tmp_path / ".other.unfinished"
    killed(Scoring(k=3))
    (unfinished / ".part-00001.parquet.x").mkdir()
    report = score_users(bundle, path, out, Scoring(k=4))
    assert report.resumed == 0 and all(len(rows) == 4 for rows in written(out).values())
    assert {file.name for file in out.iterdir()} == {"_score.json", *(f"part-0000{i}.parquet" for i in range(3))}


@pytest.mark.parametrize(
    ("asked", "table", "message"),
    [
        ({"k": 0}, None, "k is 0; expected a positive integer"),
        ({"objective": "purchase"}, None, "this bundle has no objectives"),
        ({"timestamp": 5}, None, "this bundle has no query time"),
        ({"filters": {"colour": "red"}}, None, "the filter names 'colour'"),
        ({"exclude": ["T"]}, [{"item": 100}], "has no column item_id"),
        ({"exclude": ["T"]}, [{"user_id": "U01", "item_id": 100}], "--exclude: 0 of 1 rows' users matched"),
        ({"exclude": ["T"]}, [{"user_id": "u01", "item_id": 5}], "--exclude: 0 of 1 rows' items matched"),
        ({"include": "T"}, [{"item_id": "sku"}], "no id in the include is of type int"),
        ({"exclude": ["nowhere.csv"]}, None, "no such file"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(
    bundle: Path, tmp_path: Path, asked: Mapping[str, Any], table: Rows | None, message: str
) -> None:
    path = write(tmp_path / "events.parquet", events_of(range(100, 100 + ITEMS), unknown=7))
    if table:
        file = str(write(tmp_path / "table.parquet", table))
        asked = {name: file if value == "T" else [file] for name, value in asked.items()}
    with pytest.raises(UserError, match=message):
        score_users(bundle, path, tmp_path / "out", Scoring(**asked))
    assert {entry.name for entry in tmp_path.iterdir()} <= {"events.parquet", "table.parquet"}


def test_the_command_needs_no_torch(bundle: Path, tmp_path: Path) -> None:
    events = [{**row, "customer": row.pop("user_id")} for row in events_of(range(100, 100 + ITEMS), unknown=7)]
    write(tmp_path / "events.parquet", events)
    line = ["score", str(bundle), "--events", str(tmp_path / "events.parquet"), "--out", str(tmp_path / "out")]
    line += ["-k", "3", "--filters", '{"brand": "b1"}', "--columns", "user_id=customer"]
    code = f"import sys; from twotower.commands.main import main; print(main({line!r}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False" and f"{USERS} users, {3 * USERS} rows" in done.stdout
    assert "polars.read_parquet(" in done.stdout
