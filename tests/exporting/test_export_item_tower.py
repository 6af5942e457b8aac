"""The ONNX item tower against torch: items of the catalogue, and new ones in a catalogue that has them."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from item_catalogue import DIM, Raw, arrays_of, fitted, joined, learnt_model, raw_items, rebuilt

from twotower.exporting.item_tower import export_item_tower
from twotower.exporting.parity import item_tower_difference
from twotower.features import fit
from twotower.model.item_tower.id import IdItemTower
from twotower.model.two_tower import TwoTower
from twotower.serving.item_tower import ItemEncoder

ITEMS = 60
BAGS, NUMBERS = ["brand", "tags", "title", "price"], ["weight", "picture"]
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "all kinds": ([*BAGS, *NUMBERS], {}),
    "dot product": ([*BAGS, *NUMBERS], {"normalize": False}),
    "codes alone": (BAGS, {}),
    "one code each": (["brand"], {"normalize": False}),
    "numbers alone": (NUMBERS, {}),
    "vectors alone": (["picture"], {}),
    "hashed": ([*BAGS, *NUMBERS], {"hash_buckets": 17}),
    "untied": ([*BAGS, *NUMBERS], {"tied": False}),
    "first dimensions": ([*BAGS, *NUMBERS], {"served_dim": 5}),
    "untied, first dimensions": ([*BAGS, *NUMBERS], {"served_dim": 5, "tied": False, "normalize": False}),
}


def table_of(raw: Raw) -> pa.Table:
    types = {"tags": pa.list_(pa.string()), "price": pa.float64(), "weight": pa.float64()}
    return pa.table(
        {n: pa.array(v, types.get(n, pa.string())) for n, v in raw.items() if n != "picture"}
        | {"x": [0] * len(next(iter(raw.values())))}
    )


def vectors_of(model: TwoTower) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with torch.no_grad():
        return model.encode_items().numpy(), model.encode_history_items().numpy()


Exported = tuple[TwoTower, Raw, dict[str, Any], ItemEncoder, np.ndarray[Any, Any]]


def export(tmp_path: Path, case: str) -> Exported:
    names, settings = CASES[case]
    raw = {name: values for name, values in raw_items(ITEMS, 0).items() if name in names}
    encoders = fitted(raw)
    arrays = arrays_of(encoders, raw)
    model = learnt_model(arrays, ITEMS, **settings)
    facts = export_item_tower(model, tmp_path, arrays, encoders)["item_tower"]
    encoder = ItemEncoder(tmp_path / "item_tower.onnx", encoders, facts)
    return model, raw, encoders, encoder, np.load(tmp_path / "id_embeddings.npy", mmap_mode="r")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each case exported once."""
    return cache(lambda case: export(tmp_path_factory.mktemp("tower"), case))


@pytest.mark.parametrize(
    "case", [case if case == "all kinds" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_items_of_the_catalogue_have_their_vectors(exported: Any, case: str) -> None:
    model, raw, _, encoder, own = exported(case)
    for found, expected in zip(encoder.encode(table_of(raw), own), vectors_of(model), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert item_tower_difference(encoder, table_of(raw), own, *vectors_of(model)) < 2e-6


@pytest.mark.parametrize(
    "case", [case if case == "all kinds" else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_new_items_have_those_of_a_catalogue_that_has_them(exported: Any, case: str) -> None:
    """Unseen brands and n-grams among them."""
    model, raw, encoders, encoder, _ = exported(case)
    new = raw_items(30, 1, brands="BCDXYZ", words=("red", "green gloves", "Mütze"))
    new = {name: new[name] for name in raw}
    before, after = arrays_of(encoders, raw), arrays_of(encoders, joined(raw, new))
    if "title" in raw:
        assert set(after["title.codes"]) > set(before["title.codes"])
    if case == "all kinds":
        assert after["title.codes"].max() > before["title.codes"].max(), "a code that has no vector"
    expected = vectors_of(rebuilt(model, before, after, [*range(ITEMS), *[-1] * 30]))
    kept = [encoder.numbers(name, new[name]) for name in encoder.kept]
    width = DIM if model.history_tower is None else 2 * DIM
    own = np.concatenate([np.zeros((30, width), np.float32), *kept], axis=1)
    for found, wanted in zip(encoder.encode(table_of(new), own), expected, strict=True):
        np.testing.assert_allclose(found, wanted[ITEMS:], atol=2e-6)
        assert np.abs(wanted[ITEMS:]).sum() > 1


@pytest.mark.slow
def test_a_code_just_beyond_those_of_the_catalogue_is_not_another_features(tmp_path: Path) -> None:
    """The highest age that an item has is in the second of four buckets; the codes of brands begin after it."""
    encoders = fitted({"brand": list("ABC")})
    encoders["age"] = fit("age", {"kind": "numeric", "edges": [10, 20, 30]}, [])
    raw, new = {"brand": list("ABCA"), "age": [5.0, 15.0, None, 5.0]}, {"brand": ["A", "C"], "age": [25.0, 35.0]}
    before, after = arrays_of(encoders, raw), arrays_of(encoders, joined(raw, new))
    assert (before["age.codes"].max(), after["age.codes"].tolist()[4:]) == (2, [3, 4])
    model = learnt_model(before, 4, normalize=False)
    facts = export_item_tower(model, tmp_path, before, encoders)["item_tower"]
    encoder = ItemEncoder(tmp_path / "item_tower.onnx", encoders, facts)
    expected, _ = vectors_of(rebuilt(model, before, after, [0, 1, 2, 3, -1, -1]))
    found, _ = encoder.encode(pa.table(new), np.zeros((2, DIM), np.float32))
    np.testing.assert_allclose(found, expected[4:], atol=2e-6)
    brands, _ = encoder.encode(pa.table({"brand": ["B"], "age": [99.0]}), np.zeros((1, DIM), np.float32))
    table = model.item_tower.bags.weight.detach().numpy()
    np.testing.assert_allclose(brands[0], table[3 + int(before["brand.codes"][1])], atol=1e-6)


def test_an_item_alone_has_the_vector_that_it_has_among_others(exported: Any) -> None:
    _, raw, _, encoder, own = exported("all kinds")
    together, _ = encoder.encode(table_of(raw), own)
    for row in range(0, ITEMS, 7):
        alone, _ = encoder.encode(table_of(raw).slice(row, 1), own[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


@pytest.mark.slow
def test_what_items_have_learnt_themselves(exported: Any) -> None:
    """Nothing, those that are cold; behind it the numbers of their vectors."""
    model, raw, encoders, encoder, own = exported("untied")
    cold = np.arange(1, ITEMS + 1) % 5 == 0
    assert own.shape == (ITEMS, 2 * DIM + 4)
    assert not own[cold, : 2 * DIM].any()
    tables = [tower.embedding.weight.detach().numpy()[1:] for tower in model.item_towers()]
    np.testing.assert_array_equal(own[~cold, : 2 * DIM], np.concatenate(tables, axis=1)[~cold])
    assert list(encoder.kept) == ["picture"]
    np.testing.assert_array_equal(own[:, encoder.kept["picture"]], arrays_of(encoders, raw)["picture.values"])


@pytest.mark.slow
def test_several_vectors_are_kept_one_behind_the_other(tmp_path: Path) -> None:
    facts = [("a", 3, True), ("b", 2, False), ("c", 4, True), ("d", 1, True)]
    _, _, encoders, _, _ = export(tmp_path, "all kinds")
    values = [{"name": name, "width": width, "kept": kept} for name, width, kept in facts]
    encoder = ItemEncoder(tmp_path / "item_tower.onnx", encoders, {"bags": [], "values": values})
    row = np.array(["own", *["a"] * 3, *["c"] * 4, "d"])
    for name, width in (("a", 3), ("c", 4), ("d", 1)):
        assert row[encoder.kept[name]].tolist() == [name] * width


def test_a_difference_shows(exported: Any) -> None:
    model, raw, _, encoder, own = exported("all kinds")
    for change in ("own", "brand", "weight", "picture"):
        changed_own, changed = np.array(own), copy.deepcopy(raw)
        if change == "own":
            changed_own[11, 3] += 0.1
        elif change == "picture":
            changed_own[11, -4:] += 0.5
        else:
            changed[change][11] = {"brand": "D" if raw["brand"][11] != "D" else "A", "weight": 99.0}[change]
        assert item_tower_difference(encoder, table_of(changed), changed_own, *vectors_of(model)) > 1e-3, change
    own = np.array(own)
    own[0, 0] = np.nan
    assert item_tower_difference(encoder, table_of(raw), own, *vectors_of(model)) == float("inf")


def test_a_model_that_learns_nothing_from_features_has_none(tmp_path: Path) -> None:
    raw = raw_items(ITEMS, 0)
    encoders = fitted(raw)
    arrays = arrays_of(encoders, raw)
    model = learnt_model(arrays, ITEMS)
    assert export_item_tower(model, tmp_path, arrays, {"brand": encoders["brand"]}) == {}, "encoders are missing"
    model.item_tower = IdItemTower(ITEMS, DIM, True)
    assert export_item_tower(model, tmp_path, arrays, encoders) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_graph_names_nothing_of_the_machine(tmp_path: Path) -> None:
    export(tmp_path, "all kinds")
    content = (tmp_path / "item_tower.onnx").read_bytes()
    assert b"twotower/" not in content
    assert str(Path.cwd()).encode() not in content
