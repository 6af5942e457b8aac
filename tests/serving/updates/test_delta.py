"""Items added, changed and removed, against torch's own model of the catalogue that should come of it."""

import csv
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from item_catalogue import Raw, arrays_of, fitted, joined, learnt_model, raw_items, rebuilt
from model_bundle import answers, raw_table, write_model_bundle

from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.model.item_tower.id import IdItemTower
from twotower.model.two_tower import TwoTower
from twotower.serving.retriever import Retriever
from twotower.serving.updates import delta, write_version
from twotower.serving.updates.delta import DeltaReport, remove, rollback, upsert
from twotower.serving.updates.item_table import differing
from twotower.serving.verify import verify

ITEMS = 40


class Shop(NamedTuple):
    """A bundle, and all that it was made of."""

    path: Path
    model: TwoTower
    ids: list[Any]
    counts: list[int]
    raw: Raw
    encoders: dict[str, Any]


Make = Callable[..., Shop]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Shops by settings, each exported once."""
    shops: dict[str, Shop] = {}

    def make(kind: type = str, features: bool = True, factory: str = "Flat", **settings: Any) -> Shop:
        key = repr((kind, features, factory, sorted(settings.items())))
        if key not in shops:
            raw = raw_items(ITEMS, 0)
            encoders = fitted(raw)
            arrays = arrays_of(encoders, raw)
            model = learnt_model(arrays, ITEMS, **settings)
            if not features:
                model.item_tower = IdItemTower(ITEMS, 8, model.normalize)
            ids = [kind(100 + 7 * i) for i in range(ITEMS)]
            counts = [i % 11 for i in range(ITEMS)]
            path = tmp_path_factory.mktemp("bundle") / "shop"
            write_model_bundle(path, model, ids, counts, raw, encoders, arrays, factory)
            shops[key] = Shop(path, model, ids, counts, raw, encoders)
        return shops[key]

    return make


@pytest.fixture
def shop(made: Make, tmp_path: Path) -> Make:
    """A copy of such a shop, to be changed."""

    def make(**settings: Any) -> Shop:
        original = made(**settings)
        path = tmp_path / "bundle"
        shutil.copytree(original.path, path)
        return original._replace(path=path)

    return make


def table_of(raw: Raw, ids: list[Any]) -> pa.Table:
    """As somebody would give it, with the vectors."""
    table = raw_table(raw, ids)
    if "picture" in raw:
        table = table.append_column("picture", pa.array(raw["picture"], pa.list_(pa.float64())))
    return table


def expect(shop: Shop, tmp_path: Path, rows: list[int], raw: Raw, ids: list[Any]) -> None:
    """The bundle equals the export of the same weights with the catalogue `ids`, which were in `rows` before."""
    before, after = arrays_of(shop.encoders, shop.raw), arrays_of(shop.encoders, raw)
    model = rebuilt(shop.model, before, after, rows)
    counts = [shop.counts[row] if row >= 0 else 0 for row in rows]
    fresh = write_model_bundle(tmp_path / "fresh", model, ids, counts, raw, shop.encoders, after)
    found, wanted = Retriever.load(shop.path), Retriever.load(fresh)
    columns = pq.read_table(fresh / "items.parquet").drop_columns("embedding")
    assert pq.read_table(found.bundle.file("items.parquet")).drop_columns("embedding").equals(columns)
    np.testing.assert_allclose(found.bundle.vectors, wanted.bundle.vectors, atol=3e-6)
    np.testing.assert_allclose(found.bundle.history_vectors, wanted.bundle.history_vectors, atol=3e-6)
    random = np.random.default_rng(1)
    histories = [random.integers(1, len(ids) + 1, n).tolist() for n in [*range(1, 9)] * 4]
    asked = [[ids[i - 1] for i in history] for history in histories]
    found_answers, wanted_answers = found.recommend(asked, 7), wanted.recommend(asked, 7)
    assert found_answers.ids == wanted_answers.ids
    np.testing.assert_allclose(found_answers.scores, wanted_answers.scores, atol=1e-5)
    torchs, scores = answers(model, histories, 7)
    assert found_answers.ids == [[ids[row] for row in best] for best in torchs]
    np.testing.assert_allclose(found_answers.scores, scores, atol=1e-5)
    assert (
        found.recommend([["nobody knows"]] if isinstance(ids[0], str) else [[-1]], 7).ids
        == wanted.recommend([[]], 7).ids
    )
    verify(shop.path)


def new_raw(number: int, seed: int = 1) -> Raw:
    return raw_items(number, seed, brands="BCDXYZ", words=("red", "green gloves", "Mütze"))


CASES = {
    "cosine": {},
    "dot": {"normalize": False},
    "integers": {"kind": int, "hash_buckets": 17},
    "untied": {"tied": False},
    "first dimensions": {"served_dim": 5},
}


@pytest.mark.parametrize(
    "case", [case if case == "cosine" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_upsert_equals_an_export_of_that_catalogue(shop: Make, tmp_path: Path, case: str) -> None:
    """Items 3 to 8 change, 10 new ones come, in a table of any order."""
    s = shop(**CASES[case])
    kind = type(s.ids[0])
    given, ids = new_raw(16), [*s.ids[3:9], *(kind(9000 - i) for i in range(10))]
    order = np.random.default_rng(0).permutation(16)
    table = table_of(given, ids).take(pa.array(order))
    report = upsert(s.path, table)
    assert report == DeltaReport(version=2, num_items=ITEMS + 10, added=10, changed=6)
    raw = {name: list(values) for name, values in s.raw.items()}
    new = [i for i in order if i >= 6]
    for name, values in given.items():
        raw[name][3:9] = values[:6]
        raw[name] += [values[i] for i in new]
    expect(s, tmp_path, [*range(ITEMS), *[-1] * 10], raw, [*s.ids, *(ids[i] for i in new)])


@pytest.mark.slow
def test_remove_equals_an_export_of_that_catalogue(shop: Make, tmp_path: Path) -> None:
    s = shop()
    gone = [0, 5, 17, 39]
    report = remove(s.path, [s.ids[i] for i in reversed(gone)] + ["unheard of"])
    assert report == DeltaReport(version=2, num_items=ITEMS - 4, removed=4, unknown=("unheard of",))
    rows = [i for i in range(ITEMS) if i not in gone]
    expect(s, tmp_path, rows, {n: [v[i] for i in rows] for n, v in s.raw.items()}, [s.ids[i] for i in rows])


@pytest.mark.slow
def test_one_change_upon_another(shop: Make, tmp_path: Path) -> None:
    """What was added is changed and removed; what was removed comes back and has learnt nothing."""
    s = shop(tied=False)
    first = new_raw(4)
    upsert(s.path, table_of(first, ["a", "b", "c", "d"]))
    second = new_raw(3, seed=2)
    remove(s.path, [s.ids[0], "b"])
    report = upsert(s.path, table_of(second, ["a", s.ids[0], "e"]))
    assert report == DeltaReport(version=4, num_items=ITEMS + 4, added=2, changed=1)
    old = [*range(1, ITEMS)]
    raw = joined(
        {n: v[1:] for n, v in s.raw.items()},
        {n: [v[0]] for n, v in second.items()},
        {n: v[2:] for n, v in first.items()},
        {n: v[1:] for n, v in second.items()},
    )
    expect(s, tmp_path, [*old, *[-1] * 5], raw, [*s.ids[1:], "a", "c", "d", s.ids[0], "e"])


@pytest.mark.slow
def test_what_a_table_lacks_stays_and_null_is_null(shop: Make, tmp_path: Path) -> None:
    s = shop()
    table = pa.table({"item_id": [s.ids[4], s.ids[6], "new"], "price": [1.0, None, 55.5], "brand": ["B", None, "C"]})
    assert upsert(s.path, table) == DeltaReport(version=2, num_items=ITEMS + 1, added=1, changed=2)
    raw = {name: [*values, None] for name, values in s.raw.items()}
    for row, price, brand in zip((4, 6, ITEMS), table["price"].to_pylist(), table["brand"].to_pylist(), strict=True):
        raw["price"][row], raw["brand"][row] = price, brand
    expect(s, tmp_path, [*range(ITEMS), -1], raw, [*s.ids, "new"])


@pytest.mark.slow
def test_values_of_other_types_become_the_catalogues(shop: Make, tmp_path: Path) -> None:
    s = shop(kind=int)
    table = pa.table(
        {
            "item_id": pa.array([s.ids[4], 77], pa.int32()),
            "brand": pa.array(["A", "B"]).dictionary_encode(),
            "price": pa.array([7, 8], pa.int16()),
            "tags": [["t", "p", "p"], []],
        }
    )
    upsert(s.path, table)
    raw = {name: [*values, None] for name, values in s.raw.items()}
    for row, brand, price, tags in ((4, "A", 7.0, ["p", "t"]), (ITEMS, "B", 8.0, None)):
        raw["brand"][row], raw["price"][row], raw["tags"][row] = brand, price, tags
    expect(s, tmp_path, [*range(ITEMS), -1], raw, [*s.ids, 77])


def test_what_is_so_already_makes_no_version(shop: Make, tmp_path: Path) -> None:
    s = shop()
    pq.write_table(table_of(s.raw, s.ids).slice(0, 20), tmp_path / "items.parquet")
    before = (s.path / "manifest.json").read_bytes()
    assert upsert(s.path, tmp_path / "items.parquet") == DeltaReport(version=1, num_items=ITEMS, unchanged=20)
    with pytest.raises(UserError, match=r"0 of 2 ids matched; 'x' did not, among ids like"):
        remove(s.path, ["x", "y"])
    assert remove(s.path, []) == DeltaReport(version=1, num_items=ITEMS)
    assert (s.path / "manifest.json").read_bytes() == before
    half = table_of(s.raw, s.ids).slice(0, 2).set_column(1, "brand", pa.array([s.raw["brand"][0], "unseen"]))
    assert upsert(s.path, half) == DeltaReport(version=2, num_items=ITEMS, changed=1, unchanged=1)


@pytest.mark.slow
def test_without_an_item_tower_features_change_and_items_do_not_come(shop: Make) -> None:
    s = shop(features=False)
    with pytest.raises(UserError, match=r"item 'n1' is new.*can't give it a vector.*model/item_tower=features"):
        upsert(s.path, pa.table({"item_id": [s.ids[0], "n1", "n2"], "price": [1.0, 2.0, 3.0]}))
    asked = [[s.ids[1], s.ids[2]]]
    before = Retriever.load(s.path).recommend(asked, 5)
    assert upsert(s.path, pa.table({"item_id": s.ids[:2], "price": [1.5, None]})).changed == 2
    files = json.loads((s.path / "manifest.json").read_text())["files"]
    assert [name for name in files if name.startswith("versions/")] == ["versions/2/items.parquet"], (
        "all else is shared"
    )
    now = Retriever.load(s.path)
    assert pq.read_table(now.bundle.file("items.parquet"))["price"].to_pylist()[:3] == [1.5, None, s.raw["price"][2]]
    assert now.recommend(asked, 5).ids == before.ids
    remove(s.path, [before.ids[0][0]])
    assert Retriever.load(s.path).recommend(asked, 4).ids == [before.ids[0][1:]]
    verify(s.path)


def test_golden_histories_that_lose_all_their_items(shop: Make) -> None:
    s = shop()
    golden = json.loads((s.path / "golden.json").read_text())
    used = {item for history in golden["histories"] for item in history}
    remove(s.path, golden["histories"][0])
    assert len(json.loads((s.path / "versions/2/golden.json").read_text())["histories"]) == 4
    verify(s.path)
    remove(s.path, sorted(used - {golden["histories"][0][0]}))
    verify(s.path)
    assert remove(s.path, [i for i in s.ids if i not in used][1:]).num_items == 1
    verify(s.path)
    assert len(Retriever.load(s.path).recommend([[]], 5).ids[0]) == 1


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "an id twice": ({"item_id": ["a", "b", "a"]}, "item 'a' occurs 2 times"),
    "no id": ({"item_id": ["a", None]}, "1 of 2 items have no item_id"),
    "no ids": ({"price": [1.0]}, "no column 'item_id'; they have price. Name the right one: item_id=NAME"),
    "no number in some": ({"item_id": ["a", "b"], "price": ["1.5", "12,99"]}, "'price' has '12,99'; expected numbers"),
    "no number": ({"item_id": ["a", "b"], "price": [None, "cheap"]}, "'price' has 'cheap'; expected numbers"),
    "no text": ({"item_id": ["a"], "title": [["x", "y"]]}, r"'title' has \['x', 'y'\]; expected texts, or null"),
    "no vector": ({"item_id": ["a"], "picture": [[1.0, 2.0]]}, r"'picture' has \[1.0, 2.0\]; expected vectors of 3"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_tables_that_are_refused_change_nothing(made: Make, case: str) -> None:
    columns, message = REFUSALS[case]
    path = made().path
    before = sorted(path.rglob("*"))
    with pytest.raises(UserError, match=message):
        upsert(path, pa.table(columns))
    assert sorted(path.rglob("*")) == before


@pytest.mark.slow
def test_items_of_which_training_knows_nothing_are_refused(tmp_path: Path) -> None:
    """Their vectors would have no direction: no item had such a brand, or none."""
    raw = {"brand": list("ABCD" * 10)}
    encoders = fitted(raw)
    model = learnt_model(arrays_of(encoders, raw), ITEMS)
    ids = [f"i{i}" for i in range(ITEMS)]
    path = write_model_bundle(tmp_path / "b", model, ids, [1] * ITEMS, raw, encoders, arrays_of(encoders, raw))
    assert upsert(path, pa.table({"item_id": ["fine"], "brand": ["D"]})).added == 1
    for brand in ("E", None):
        with pytest.raises(UserError, match="1 of the new or changed items, 'blank' for one, would have no vector"):
            upsert(path, pa.table({"item_id": ["fine too", "blank"], "brand": ["A", brand]}))
    assert upsert(path, pa.table({"item_id": ["i1"], "brand": ["E"]})).changed == 1, "it has learnt something itself"
    verify(path)


@pytest.mark.slow
def test_the_index_is_built_by_the_same_recipe(shop: Make) -> None:
    s = shop(factory="IVF1,Flat")  # as good as the usual one, and told from it
    facts = json.loads((s.path / "manifest.json").read_text())
    upsert(s.path, table_of(new_raw(3), ["n0", "n1", "n2"]))
    built = faiss.read_index(str(s.path / "versions/2/index.faiss"))
    assert isinstance(built, faiss.IndexIVFFlat)
    assert built.ntotal == ITEMS + 3
    assert json.loads((s.path / "manifest.json").read_text())["index"] == facts["index"]


def test_remove_refuses(made: Make) -> None:
    s = made()
    with pytest.raises(UserError, match=f"these are all {ITEMS} items"):
        remove(s.path, s.ids)
    with pytest.raises(UserError, match="0 of 2 ids matched"):
        remove(s.path, [1, "a"])
    with pytest.raises(UserError, match="occurs 2 times"):
        remove(s.path, [s.ids[0], s.ids[0]])
    with pytest.raises(UserError, match="is not a bundle"):
        remove(s.path.parent, ["a"])


def test_versions_share_files_and_rollback_goes_to_any(shop: Make) -> None:
    s = shop()
    first = {f.relative_to(s.path): f.read_bytes() for f in s.path.iterdir()}
    asked = [[s.ids[1], s.ids[2]], [s.ids[3]]]
    before = Retriever.load(s.path)
    answered = {1: before.recommend(asked, 5)}
    upsert(s.path, table_of(new_raw(30), [f"n{i}" for i in range(30)]))
    answered[2] = Retriever.load(s.path).recommend(asked, 5)
    gone = [id for id in answered[2].ids[0] if id not in (s.ids[1], s.ids[2], s.ids[3])]
    remove(s.path, gone)
    answered[3] = Retriever.load(s.path).recommend(asked, 5)
    assert len({str(a.ids) for a in answered.values()}) == 3
    assert before.recommend(asked, 5).ids == answered[1].ids, "who has it open goes on"

    def now(number: int) -> None:
        assert [v.number for v in delta.versions(s.path) if v.is_current] == [number]
        found = Retriever.load(s.path).recommend(asked, 5)
        assert found.ids == answered[number].ids
        assert np.array_equal(found.scores, answered[number].scores)
        verify(s.path)

    assert rollback(s.path) == 2
    now(2)
    assert rollback(s.path) == 1
    now(1)
    with pytest.raises(UserError, match="version 1, the first; there is none before it"):
        rollback(s.path)
    assert {f.relative_to(s.path): f.read_bytes() for f in s.path.iterdir() if f.is_file()} == first
    assert rollback(s.path, 3) == 3
    now(3)
    assert rollback(s.path, 1) == 1
    assert upsert(s.path, table_of(new_raw(1), ["n0"])).version == 4
    assert [(v.number, v.parent, v.num_items) for v in delta.versions(s.path)] == [
        (1, None, 40), (2, 1, 70), (3, 2, 70 - len(gone)), (4, 1, 41),
    ]  # fmt: skip
    assert rollback(s.path) == 1, "that it was made from"
    with pytest.raises(UserError, match="no version 7; it has 1, 2, 3, 4"):
        rollback(s.path, 7)


def test_a_damaged_version_is_not_gone_back_to(shop: Make) -> None:
    s = shop()
    upsert(s.path, table_of(new_raw(1), ["n0"]))
    upsert(s.path, table_of(new_raw(1, seed=3), ["n1"]))
    file = s.path / "versions/2/items.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(UserError, match=r"versions/2/items.parquet has another SHA-256"):
        rollback(s.path)
    assert verify(s.path) < 1e-5
    assert rollback(s.path, 1) == 1


@pytest.mark.parametrize("step", ["write_items", "seal", "verify", "accept"])
def test_an_error_at_any_step_leaves_the_old_version(shop: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    s = shop()
    before = (s.path / "manifest.json").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(write_version.fmt if step == "seal" else write_version, step, fail)
        with pytest.raises(OSError, match="disk full"):
            upsert(s.path, table_of(new_raw(1), ["n0"]))
    assert (s.path / "manifest.json").read_bytes() == before
    assert not (s.path / "versions/2").exists()
    verify(s.path)
    assert upsert(s.path, table_of(new_raw(1), ["n0"])).version == 2


KILLED = """
import os, sys
import pyarrow.parquet as pq
from twotower.serving.updates import delta, write_version, versions
module, step = {where}
real = getattr(module, step)
def killed(*a, **k):
    if {after}:
        real(*a, **k)
    os._exit(9)
setattr(module, step, killed)
delta.upsert(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "where", ["(write_version, 'write_items')", "(write_version, 'propose')", "(versions, '_keep_current')"]
)
def test_a_process_that_is_killed_leaves_the_old_version(shop: Make, tmp_path: Path, where: str, after: bool) -> None:
    s = shop()
    before = (s.path / "manifest.json").read_bytes()
    pq.write_table(table_of(new_raw(2), ["n0", "n1"]), tmp_path / "items.parquet")
    code = KILLED.format(where=where, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code, str(s.path), str(tmp_path / "items.parquet")], capture_output=True
    )
    assert done.returncode == 9, done.stderr.decode()
    assert (s.path / "versions/2").exists()
    assert (s.path / "manifest.json").read_bytes() == before
    verify(s.path)
    assert remove(s.path, [s.ids[0]]).version == 2, "what was left is cleared away"
    assert "n0" not in Retriever.load(s.path).bundle.item_ids.to_pylist()
    assert [v.number for v in delta.versions(s.path)] == [1, 2]
    verify(s.path)


def test_two_at_once(shop: Make) -> None:
    import fcntl

    s = shop()
    held = os.open(s.path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    for change in (lambda: remove(s.path, [s.ids[0]]), lambda: rollback(s.path, 1)):
        with pytest.raises(UserError, match=r"another process is changing .*bundle; try again"):
            change()
    os.close(held)
    assert remove(s.path, [s.ids[0]]).removed == 1


def test_the_command(shop: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    s = shop(kind=int)
    path, items = str(s.path), str(tmp_path / "items.parquet")
    pq.write_table(table_of(joined({n: v[:1] for n, v in s.raw.items()}, new_raw(2)), [s.ids[0], 1, 2]), items)

    def said(*arguments: str, code: int = 0) -> str:
        assert delta.main(arguments) == code
        out, err = capsys.readouterr()
        assert bool(err) == bool(code)
        return out + err

    assert "2 items added, 0 changed, 1 unchanged\n" in said("upsert", path, items)
    text = said("remove", path, str(s.ids[3]), "555")
    assert "1 items removed; not in the bundle: 555\n" in text
    assert f"{path} is at version 3, 41 items" in text
    assert f"to undo: {command('delta', 'rollback', path)}\n" in text
    assert "0 of 1 ids matched; '555' did not" in said("remove", path, "555", code=2)
    assert said("rollback", path).startswith(f"{path} is at version 2;")
    assert said("versions", path).splitlines()[1:] == [
        "      1     -     40", "      2     1     42  current", "      3     2     41",
    ]  # fmt: skip
    assert "is at version 3" in said("rollback", path, "3")
    assert "whole numbers, 'abc' is none" in said("remove", path, "abc", code=2)
    assert "error: " in said("upsert", path, str(tmp_path / "none.parquet"), code=2)
    assert "'x' is no version number" in said("rollback", path, "x", code=2)
    for wrong in (
        [],
        ["upsert", path],
        ["versions"],
        ["remove", path],
        ["rollback", path, "1", "2"],
    ):
        assert "twotower delta remove BUNDLE ITEM_ID" in said(*wrong, code=2)
    assert "no action 'instal'; there are upsert" in said("instal", path, code=2)
    assert "did you mean 'upsert'?" in said("upser", path, code=2)


FORMS: dict[str, Any] = {
    "items.csv": lambda t: t.encode(),
    "items.csv.gz": lambda t: gzip.compress(t.encode()),
    "items.tsv": lambda t: t.replace(",", "\t").encode(),
    "items.jsonl": lambda t: "\n".join(json.dumps(row) for row in csv.DictReader(io.StringIO(t))).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_table_may_have_any_format_and_other_names(
    made: Make, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same change by a typed table and by texts: the same values."""
    original = made(kind=int)
    paths = [shutil.copytree(original.path, tmp_path / copy) for copy in ("a", "b")]
    text = f"sku,cost,brand,stock\n{original.ids[4]}.0,9.1,A,3\n77,NA,B,4\n"
    (tmp_path / name).write_bytes(FORMS[name](text))
    assert delta.main(["upsert", str(paths[0]), str(tmp_path / name), "item_id=sku", "price=cost"]) == 0
    assert "columns that are no feature of the bundle, ignored: stock\n" in capsys.readouterr().out
    table = {"item_id": [float(original.ids[4]), 77.0], "price": pa.array([9.1, None], pa.float32())}
    assert upsert(paths[1], pa.table({**table, "brand": ["A", "B"]})).ignored == ()
    read = [pq.read_table(path / "versions/2/items.parquet") for path in paths]
    assert read[0].equals(read[1]) and read[0]["price"].to_pylist()[4] == 9.1
    (tmp_path / "gone.csv").write_text(f"stock,sku\n1,77\n2,{original.ids[4]}\n3,999\n")
    assert delta.main(["remove", str(paths[0]), str(tmp_path / "gone.csv"), "item_id=sku"]) == 0
    assert "2 items removed; not in the bundle: 999\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.csv", b"item_id,price\na,1,2\n", "row 2 has 3 fields, the first line 2"),
        ("items.csv", b"item_id,price,price\na,1,2\n", "'price' twice"),
        ("items.csv.gz", b"item_id\na\n", "can't be read as CSV"),
        ("items.jsonl", b"[1]\n", "a line is not an object"),
        ("items.txt", b"a", "no table by its name"),
        ("items.csv", b"id,price\na,1\n", "they have id, price. Name the right one: item_id=NAME"),
    ],
)
def test_files_that_are_no_table_of_items(made: Make, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        upsert(made().path, tmp_path / name)


def test_new_ids_that_are_nearly_known_are_pointed_out(shop: Make) -> None:
    s = shop()
    report = upsert(s.path, pa.table({"item_id": [f"0{s.ids[3]} ", "quite new"], "brand": ["A", "B"]}))
    assert report.added == 2 and f"the bundle has '{s.ids[3]}'; preparation.ids=[strip,zeros]" in str(report.similar)


def test_delta_needs_no_torch() -> None:
    heavy = {"torch", "polars", "mlflow", "hydra"}
    code = f"import sys, twotower.serving.updates.delta; print(*{heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_lists_compare_whichever_of_arrows_list_types_they_have() -> None:
    """polars writes large lists, pyarrow lists."""
    given = pa.table({"item_id": ["a", "b", "c"], "tags": pa.array([["x", "y"], ["x"], None], pa.list_(pa.string()))})
    current = pa.array([["x", "y"], ["x", "z"], None], pa.large_list(pa.large_string()))
    assert differing(given, pa.table({"item_id": ["a", "b", "c"], "tags": current})).tolist() == [False, True, False]
