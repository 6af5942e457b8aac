"""Filters against a naive loop over the items. Shapes: V items."""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.core.errors import UserError
from twotower.core.values import TextForm
from twotower.serving import filters as module
from twotower.serving.caps import within_caps
from twotower.serving.catalogue import Catalogue
from twotower.serving.filters import ItemFilter
from twotower.serving.unknown import Unknown

BIG = 2**53 + 1  # no float
ITEMS: list[dict[str, Any]] = [
    {"item_id": 1, "count": 5, "brand": "a", "tags": ["x", "y"], "price": 9.5, "stock": "true"},
    {"item_id": 2, "count": BIG, "brand": "12", "tags": [], "price": 10.0, "stock": "false"},
    {"item_id": 3, "count": BIG - 1, "brand": None, "tags": None, "price": None, "stock": None},
    {"item_id": 4, "count": 0, "brand": "b", "tags": ["y", None], "price": 50.0, "stock": "true"},
    {"item_id": 5, "count": -3, "brand": "日本", "tags": ["x"], "price": -1.25, "stock": "false"},
    {"item_id": 6, "count": 5, "brand": "a", "tags": [None], "price": 1e300, "stock": "true"},
]
TYPES = {"tags": pa.list_(pa.string()), "price": pa.float64(), "count": pa.int64()}


def make_filter(directory: Path, items: list[dict[str, Any]] = ITEMS) -> ItemFilter:
    columns = {n: pa.array([item[n] for item in items], TYPES.get(n)) for n in items[0]}
    embedding = pa.array([[1.0]] * len(items), pa.list_(pa.float32(), 1))
    file = directory / "items.parquet"
    pq.write_table(pa.table({**columns, "embedding": embedding}), file)
    return ItemFilter(file, Catalogue(columns["item_id"], TextForm()), Unknown(), TextForm())


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> ItemFilter:
    return make_filter(tmp_path_factory.mktemp("items"))


def holds(predicate: Mapping[str, Any], item: dict[str, Any]) -> bool:
    """The language once more, item by item."""
    for name, condition in predicate.items():
        if name == "not":
            good = not holds(condition, item)
        elif name == "any":
            good = any([holds(one, item) for one in condition])
        else:
            value = item[name]
            values = value if isinstance(value, list) else [value]
            values = [v for v in values or [] if v is not None]
            if isinstance(condition, dict):
                low, high = condition.get("min", -float("inf")), condition.get("max", float("inf"))
                good = any(low <= v <= high for v in values)
            else:
                wanted = condition if isinstance(condition, list) else [condition]
                if not isinstance(next(iter(values), ""), int | float):
                    wanted = [w if w is None or isinstance(w, str) else json.dumps(w) for w in wanted]
                good = (None in wanted and not values) or any(v in wanted for v in values)
        if not good:
            return False
    return True


CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({"brand": "a"}, [1, 6]),
    ({"brand": ["a", "b", "no such"]}, [1, 4, 6]),
    ({"brand": 12}, [2]),
    ({"brand": 12.0}, [2]),
    ({"brand": "日本"}, [5]),
    ({"brand": []}, []),
    ({"brand": None}, [3]),
    ({"brand": [None, "b"]}, [3, 4]),
    ({"tags": "y"}, [1, 4]),
    ({"tags": ["x", "no"]}, [1, 5]),
    ({"tags": None}, [2, 3, 6]),
    ({"price": {"min": 9.5, "max": 10}}, [1, 2]),
    ({"price": {"min": 10}}, [2, 4, 6]),
    ({"price": {"max": 9.5}}, [1, 5]),
    ({"price": {"min": 3, "max": 2}}, []),
    ({"price": [50, -1.25]}, [4, 5]),
    ({"price": None}, [3]),
    ({"count": BIG}, [2]),
    ({"count": [5.0, 0.5, 10**19]}, [1, 6]),
    ({"count": {"min": BIG}}, [2]),
    ({"stock": True}, [1, 4, 6]),
    ({"stock": False}, [2, 5]),
    ({"not": {"stock": True}}, [2, 3, 5]),  # null is not true
    ({"not": {}}, []),
    ({"not": {"not": {"price": {"min": 0}}}}, [1, 2, 4, 6]),
    ({"any": [{"brand": "a", "price": {"max": 10}}, {"tags": "x", "stock": False}]}, [1, 5]),
    ({"any": []}, []),
    ({"any": [{}]}, [1, 2, 3, 4, 5, 6]),
    ({"brand": "a", "tags": "x"}, [1]),
    ({"item_id": [4, 1]}, [1, 4]),
]


@pytest.mark.parametrize(("predicate", "ids"), CASES, ids=[json.dumps(case) for case, _ in CASES])
def test_predicate(items: ItemFilter, predicate: dict[str, Any], ids: list[int]) -> None:
    mask = items.allowed(predicate)
    assert mask is not None and mask.dtype == bool
    assert (np.flatnonzero(mask) + 1).tolist() == ids


values = {
    "brand": st.sampled_from(["a", "b", "日本", "12", 12, True, None]),
    "tags": st.sampled_from(["x", "y", "z", None]),
    "price": st.sampled_from([9.5, 10, 50, -1.25, None]),
    "stock": st.sampled_from([True, False, None, "true"]),
}
conditions = [
    *(st.tuples(st.just(name), st.one_of(value, st.lists(value, max_size=3))) for name, value in values.items()),
    st.tuples(
        st.just("price"),
        st.dictionaries(st.sampled_from(["min", "max"]), st.sampled_from([9.5, 10, 50, -2]), min_size=1),
    ),
]
predicates = st.recursive(
    st.lists(st.one_of(conditions), max_size=3).map(dict),
    lambda inner: st.one_of(
        inner.map(lambda p: {"not": p}),
        st.lists(inner, max_size=3).map(lambda ps: {"any": ps}),
        st.tuples(inner, inner).map(lambda two: {**two[0], "not": two[1]}),
    ),
    max_leaves=5,
)


@given(predicates)
def test_equals_a_loop_over_the_items(items: ItemFilter, predicate: dict[str, Any]) -> None:
    expected = [holds(predicate, item) for item in ITEMS]
    mask = items.allowed(predicate)
    if mask is None:
        assert predicate == {} and all(expected)
    else:
        assert mask.tolist() == expected


def test_lists_of_ids(items: ItemFilter) -> None:
    def ids(*asked: Any) -> list[int]:
        mask = items.allowed(*asked)
        assert mask is not None
        return (np.flatnonzero(mask) + 1).tolist()

    assert items.allowed() is None
    assert items.allowed({}, None, []) is None
    assert items.allowed(None, None, [99]) is None  # unknown ids are ignored
    assert ids(None, [1, 4, 99, "x"]) == [1, 4]
    assert ids(None, []) == ids(None, [99]) == []
    assert ids(None, None, [1, 4, 4, 99]) == [2, 3, 5, 6]
    assert ids({"brand": "a"}, [1, 2], None) == [1]
    assert ids({"brand": "a"}, [1, 2, 6], (6,)) == [1]
    assert ids({"brand": "a"}, None, [6]) == [1]
    assert ids({"brand": "a"}) == [1, 6]  # what was kept is not what was cut
    assert ids(None, np.array([2, 3])) == [2, 3]
    for wrong in ("12", 12, {"a": 1}, ["a", "b"], [[1]]):
        with pytest.raises(UserError, match="include"):
            items.allowed(None, wrong)
        with pytest.raises(UserError, match="exclude"):
            items.allowed(None, None, wrong)


nested: Any = {"brand": "a"}
for _ in range(8):
    nested = {"not": nested}
WRONG: list[tuple[Any, str]] = [
    ("brand", "a filter is 'brand'"),
    (["brand"], "a filter is"),
    ({"brnd": "a"}, "names 'brnd'; items have .*brand.*did you mean 'brand'"),
    ({"warehouse": "a"}, "names 'warehouse'; items have .*brand.*declared when the model was trained"),
    ({"embedding": 1.0}, "names 'embedding'"),
    ({7: "a"}, "names 7"),
    ({"brand": {"min": 3}}, "'brand' has texts"),
    ({"price": {}}, "filter of 'price' is {}"),
    ({"price": {"min": 1, "maximum": 3}}, "filter of 'price'"),
    ({"price": {"min": None}}, "None; 'price' has numbers"),
    ({"price": {"min": "1,5"}}, "'1,5'; 'price' has numbers"),
    ({"price": "cheap"}, "'cheap'; 'price' has numbers"),
    ({"price": float("nan")}, "nan; 'price' has numbers"),
    ({"price": [float("inf")]}, "inf; 'price' has numbers"),
    ({"price": 10**400}, "too large"),
    ({"brand": float("nan")}, "'brand' has nan"),
    ({"brand": "\ud800"}, r"'brand' has '\\ud800'"),
    ({"brand": [["a"]]}, r"'brand' has \['a'\]"),
    ({"brand": [{"min": 1}]}, "'brand' has"),
    ({"not": [{"brand": "a"}]}, "a filter is"),
    ({"any": {"brand": "a"}}, "'any' in a filter is"),
    ({"any": "brand"}, "'any' in a filter is"),
    ({"any": ["brand"]}, "a filter is 'brand'"),
    (nested, "nested more than 8"),
    ({"brand": ["a"] * 10_001}, "10,001 values"),
    ({"any": [{"brand": "a"}] * 50}, "101 conditions"),
    ({"any": [{}] * 200}, "201 conditions"),
]


@pytest.mark.parametrize(("predicate", "message"), WRONG, ids=[message for _, message in WRONG])
def test_refused(items: ItemFilter, predicate: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        items.allowed(predicate)
    assert len(str(refused.value)) < 400
    str(refused.value).encode()  # can be sent as an answer


def test_what_nests_without_end_is_refused(items: ItemFilter) -> None:
    loop: dict[str, Any] = {}
    loop["any"] = [loop]
    with pytest.raises(UserError, match="nested"):
        items.allowed(loop)
    assert items.allowed(nested["not"]) is not None  # one level less
    assert items.allowed({"brand": ["a"] * 10_000}) is not None


def test_masks_and_columns_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = make_filter(tmp_path)
    read: list[str] = []
    original = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda *a, columns: read.extend(columns) or original(*a, columns=columns))
    first = fresh.allowed({"brand": "a", "price": {"min": 1, "max": 10}})
    assert fresh.allowed({"price": {"max": 10, "min": 1}, "brand": ["a"]}) is first  # the same in another order
    assert first is not None and not first.flags.writeable
    assert sorted(read) == ["brand", "price"]
    for number in range(module.MASKS + 2):
        fresh.allowed({"price": {"min": 10 * number}})
        if number < module.MASKS:  # who is asked for again stays
            assert fresh.allowed({"brand": "a", "price": {"min": 1, "max": 10}}) is first
    for number in range(module.MASKS):
        fresh.allowed({"price": {"min": 10 * number}})
    assert len(fresh._masks) == module.MASKS
    assert fresh.allowed({"brand": "a", "price": {"min": 1, "max": 10}}) is not first
    assert sorted(read) == ["brand", "price"]


def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MASKS", 2)
    shared = make_filter(tmp_path)
    asked = [case for case, _ in CASES] * 20
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            masks = list(pool.map(shared.allowed, asked))
    finally:
        sys.setswitchinterval(interval)
    for mask, (_, ids) in zip(masks, CASES * 20, strict=True):
        assert mask is not None and (np.flatnonzero(mask) + 1).tolist() == ids


def test_caps(items: ItemFilter) -> None:
    assert items.caps(None) == items.caps({}) == []
    rows = np.arange(6)
    assert within_caps(rows, items.caps({"brand": 1}), 9).tolist() == [0, 1, 2, 3, 4]
    assert within_caps(rows, items.caps({"tags": 1}), 9).tolist() == [0, 1, 2, 5]
    for wrong, message in (
        ({"brnd": 1}, "did you mean 'brand'"),
        ({"price": 1}, "names 'price'; it can name brand, tags, stock"),
        ({"brand": 0}, "'brand' is 0"),
        ({"brand": "2"}, "'brand' is '2'"),
        ({"brand": True}, "is True"),
        (["brand"], "max_per is"),
    ):
        with pytest.raises(UserError, match=message):
            items.caps(wrong)
