"""Item features by catalogue row, whatever the order of the table's rows, as of the start of the test."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from preparing import Prepare

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import ITEM_ID, open_prepared
from twotower.data.preparation.item_features import check_specs, encode_items
from twotower.features import encode

BRAND = {"brand": {"kind": "categorical"}}


def catalogue(*ids: Any) -> pl.DataFrame:
    return pl.DataFrame({ITEM_ID: ids})


def values_of(encoders: dict[str, Any], arrays: dict[str, np.ndarray], name: str) -> list[Any]:
    """A categorical feature's values by catalogue row, read back from the codes."""
    encoder, codes = encoders[name], arrays[f"{name}.codes"]
    assert arrays[f"{name}.offsets"].tolist() == list(range(len(codes) + 1))
    return [None if c == 0 else encoder["vocabulary"][c - 1 - encoder["out_of_vocabulary"]] for c in codes]


def brands(items: pl.DataFrame, ids: pl.DataFrame, before: int | None = None) -> list[Any]:
    encoders, arrays, *_ = encode_items(items.lazy(), BRAND, ids, before)
    return values_of(encoders, arrays, "brand")


def test_rows_follow_the_catalogue_and_only_its_items_are_learnt_from() -> None:
    items = pl.DataFrame({ITEM_ID: ["c", "x", "a", "y"], "brand": ["B", "X", "A", "Y"]})
    encoders, arrays, _, facts = encode_items(items.lazy(), BRAND, catalogue("a", "b", "c"), None)
    assert encoders["brand"]["vocabulary"] == ["A", "B"]
    assert values_of(encoders, arrays, "brand") == ["A", None, "B"]
    assert (facts["items_without_features"], facts["contradictory_items"]) == (1, {"brand": 0})
    assert str(facts["matches"][0]) == "data.items: 2 of 3 items of the catalogue matched"


def test_every_kind_is_encoded_as_its_encoder_does() -> None:
    items = pl.DataFrame(
        {
            ITEM_ID: [1, 2, 4],
            "kinds": [["b", "a"], ["a"], []],
            "price": [9.5, math.nan, 20.0],
            "weight": [1, 2, 3],
            "name": ["Red shoe", "", "Hat"],
            "vector": [[0.6, 0.8], None, [1.0, 0.0]],
            "fixed": pl.Series([[1.0, 0.0], [0.0, 3.0], None], dtype=pl.Array(pl.Float64, 2)),
            "size": pl.Series(["S", None, "M"], dtype=pl.Categorical),
        }
    )
    specs: dict[str, dict[str, Any]] = {
        "kinds": {"kind": "multi"},
        "price": {"kind": "price"},
        "heavy": {"kind": "numeric", "standardise": True, "column": "weight"},
        "name": {"kind": "text"},
        "vector": {"kind": "vector"},
        "fixed": {"kind": "vector"},
        "size": {"kind": "categorical"},
    }
    encoders, arrays, raw, facts = encode_items(items.lazy(), specs, catalogue(1, 2, 3, 4), None)
    expected = {
        "item_name": ["Red shoe", None, None, "Hat"],
        "kinds": [["a", "b"], ["a"], None, None],
        "price": [9.5, None, None, 20.0],
        "heavy": [1.0, 2.0, None, 3.0],
        "name": ["Red shoe", None, None, "Hat"],
        "size": ["S", None, None, "M"],
    }
    assert {column: raw[column].to_list() for column in raw.columns} == expected, "all but vectors"
    assert raw.schema == {
        "item_name": pl.String, "kinds": pl.List(pl.String), "price": pl.Float64, "heavy": pl.Float64,
        "name": pl.String, "size": pl.String,
    }  # fmt: skip
    for name in expected.keys() & encoders.keys():  # who encodes them again gets what was learnt from
        again = encode(encoders[name], expected[name])
        for part, array in zip(again._fields, again, strict=True):
            assert arrays[f"{name}.{part}"].tobytes() == array.tobytes(), name
    np.testing.assert_array_equal(arrays.pop("price.price"), np.array([9.5, np.nan, np.nan, 20.0], np.float32))
    values: dict[str, list[Any]] = {
        "kinds": [["a", "b"], ["a"], None, None],
        "price": [9.5, None, None, 20.0],
        "heavy": [1, 2, None, 3],
        "name": ["Red shoe", None, None, "Hat"],
        "vector": [[0.6, 0.8], None, None, [1.0, 0.0]],
        "fixed": [[1.0, 0.0], [0.0, 3.0], None, None],
        "size": ["S", None, None, "M"],
    }
    assert set(encoders) == set(specs)
    for name, column in values.items():
        encoded = encode(encoders[name], column)
        for part, array in zip(encoded._fields, encoded, strict=True):
            assert arrays.pop(f"{name}.{part}").tobytes() == array.tobytes(), name
    assert not arrays
    assert facts["items_without_features"] == 1
    assert encoders["heavy"]["mean"] == 2.0


@pytest.mark.parametrize(
    ("ids", "table"),
    [
        (["1", "2", "30"], ["1.0", "30.0", "7"]),
        ([1, 2, 30], ["1", "30", "7"]),
        ([1, 2, 30], [1.0, 30.0, 7.5]),
        (["1", "2", "30"], [1, 30, 7]),
        (["1.0", "2.0", "30.0"], [1, 30, 7]),
        ([1, 2, 30], ["1.0", "30", "a"]),
    ],
)
def test_whole_ids_are_compared_as_numbers_are_written(ids: list[Any], table: list[Any]) -> None:
    items = pl.DataFrame({ITEM_ID: table, "brand": ["A", "C", "X"]})
    assert brands(items, catalogue(*ids)) == ["A", None, "C"]


def test_other_ids_are_compared_to_the_letter() -> None:
    items = pl.DataFrame({ITEM_ID: ["1.5", "A", "01"], "brand": ["X", "A", "Y"]})
    assert brands(items, catalogue("1", "A", "a")) == [None, "A", None]
    assert brands(items, catalogue("1", "01", "3")) == [None, "Y", None]


HISTORY = [  # item, time, brand
    ("a", 10, "old"), ("a", 20, "new"), ("a", 30, "future"), ("b", 30, "late"), ("c", None, "always"),
    ("d", 10, "known"), ("d", 20, None), ("e", None, "before"), ("e", 5, "after"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "expected", "without"),
    [
        (30, ["new", None, "always", "known", "after"], 1),
        (31, ["future", "late", "always", "known", "after"], 0),
        (15, ["old", None, "always", "known", "after"], 1),
        (5, [None, None, "always", None, "before"], 3),
        (None, ["future", "late", "always", "known", "after"], 0),
    ],
)
def test_a_value_is_the_newest_before_the_test(before: int | None, expected: list[Any], without: int) -> None:
    items = pl.DataFrame(HISTORY, schema=[ITEM_ID, "timestamp", "brand"], orient="row")
    encoders, arrays, _, facts = encode_items(items.lazy(), BRAND, catalogue(*"abcde"), before)
    assert values_of(encoders, arrays, "brand") == expected
    assert facts["items_without_features"] == without
    assert set(encoders["brand"]["vocabulary"]) == {e for e in expected if e}, "nothing later is learnt from"


def test_without_times_before_means_nothing() -> None:
    items = pl.DataFrame({ITEM_ID: ["a"], "brand": ["A"]})
    assert brands(items, catalogue("a", "b"), before=0) == ["A", None]


def test_contradictions_are_counted_and_the_smallest_value_is_taken() -> None:
    rows = [
        ("a", 10, "z", 9), ("a", 10, "k", 9), ("a", 5, "aaa", 1),  # the older time is no contradiction
        ("b", 10, "b", 10), ("b", 10, "b", 9), ("c", 10, "c", None), ("c", 10, None, 5), ("c", 10, "c", 5),
    ]  # fmt: skip
    items = pl.DataFrame(rows, schema=[ITEM_ID, "timestamp", "brand", "size"], orient="row")
    specs = BRAND | {"size": {"kind": "categorical"}}
    encoders, arrays, _, facts = encode_items(items.lazy(), specs, catalogue("a", "b", "c"), None)
    assert values_of(encoders, arrays, "brand") == ["k", "b", "c"]
    assert values_of(encoders, arrays, "size") == ["9", "9", "5"], "the smallest number, not the smallest text"
    assert facts["contradictory_items"] == {"brand": 1, "size": 1}


def test_what_says_nothing_contradicts_nothing() -> None:
    items = pl.DataFrame({ITEM_ID: ["a", "a", "b"], "brand": ["", "z", ""], "size": [math.nan, 3.0, math.inf]})
    specs = BRAND | {"size": {"kind": "categorical"}}
    encoders, arrays, _, facts = encode_items(items.lazy(), specs, catalogue("a", "b"), None)
    assert values_of(encoders, arrays, "brand") == ["z", None]
    assert values_of(encoders, arrays, "size") == ["3", None]
    assert facts["contradictory_items"] == {"brand": 0, "size": 0}


def test_lists_contradict_each_other_where_they_hold_other_values() -> None:
    kinds, vectors = [["x", "y"], ["y", "x"], ["y"], ["x"]], [[1.0, 2], [2, 1], [1, 1], [1, 1]]
    items = pl.DataFrame({ITEM_ID: ["a", "a", "b", "b"], "kinds": kinds, "vector": vectors})
    specs = {"kinds": {"kind": "multi"}, "vector": {"kind": "vector"}}
    encoders, arrays, _, facts = encode_items(items.lazy(), specs, catalogue("a", "b"), None)
    assert facts["contradictory_items"] == {"kinds": 1, "vector": 1}, "the order of a vector's numbers matters"
    assert arrays["kinds.codes"].tolist() == [2, 3, 2]
    scale = encoders["vector"]["scale"]
    assert arrays["vector.values"][0].tolist() == pytest.approx([scale, 2 * scale, 0])


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_changes_no_byte(seed: int) -> None:
    random = np.random.default_rng(seed)
    number = 300
    names = random.choice(["red", "green", "blue", ""], size=(number, 2))
    items = pl.DataFrame(
        {
            ITEM_ID: random.integers(0, 40, number),
            "timestamp": random.integers(0, 6, number),
            "brand": names[:, 0],
            "kinds": [list(row) for row in names],
            "price": random.normal(size=number).round(1),
            "vector": random.normal(size=(number, 3)).round(1).tolist(),
        }
    )
    specs = BRAND | {
        "kinds": {"kind": "multi"},
        "price": {"kind": "numeric", "standardise": True},
        "bucket": {"kind": "price", "column": "price", "buckets": 5},
        "vector": {"kind": "vector"},
    }
    ids = catalogue(*range(45))
    encoders, arrays, raw, facts = encode_items(items.lazy(), specs, ids, 4)
    again = encode_items(items.sample(fraction=1, shuffle=True, seed=seed).lazy(), specs, ids, 4)
    assert again[0] == encoders
    assert again[2].equals(raw)
    assert again[3] == facts
    assert facts["contradictory_items"]["brand"] > 0
    assert {name: array.tobytes() for name, array in again[1].items()} == {n: a.tobytes() for n, a in arrays.items()}


def test_missing_columns_are_named() -> None:
    items = pl.DataFrame({ITEM_ID: ["a"], "brands": ["A"]})
    with pytest.raises(UserError, match=r"features\.items\.brand needs the column 'brand'.*did you mean 'brands'"):
        encode_items(items.lazy(), BRAND, catalogue("a"), None)
    with pytest.raises(UserError, match="needs the column 'item_id'; the items' table has brands"):
        encode_items(items.lazy().select("brands"), BRAND, catalogue("a"), None)


def test_without_features_there_is_nothing_to_encode() -> None:
    items = pl.DataFrame({ITEM_ID: ["a"]})
    encoders, arrays, raw, facts = encode_items(items.lazy(), {}, catalogue("a", "b"), None)
    assert (encoders, arrays, raw.columns) == ({}, {}, [])
    nothing: dict[str, Any] = {"contradictory_items": {}, "unreadable_numbers": {}, "matches": []}
    assert facts == {"items_without_features": 1, **nothing}


@pytest.mark.parametrize("name", ["item_id", "train_count", "age_days", "item_name", "embedding"])
def test_a_feature_cannot_take_the_name_of_another_column(name: str) -> None:
    with pytest.raises(UserError, match=rf"features\.items\.{name}: the name is taken; call it otherwise"):
        check_specs({name: {"kind": "text"}})
    check_specs({"title": {"kind": "text", "column": name}})


def test_real_films_have_their_genres(real_data) -> None:
    """MovieLens 100k: genres, years and titles of its films, read back from the codes."""
    items = pl.scan_parquet(real_data / "movielens100k" / "items.parquet")
    table = items.collect().sort(ITEM_ID)
    specs = {
        "genres": {"kind": "multi"},
        "year": {"kind": "numeric", "column": "release_year", "buckets": 10},
        "title": {"kind": "text", "column": "movie_title"},
    }
    encoders, arrays, _, facts = encode_items(items, specs, table.select(ITEM_ID), None)
    assert (facts["items_without_features"], facts["contradictory_items"]) == (0, dict.fromkeys(specs, 0))
    assert facts["unreadable_numbers"] == {"year": {"values": 2, "of": 1682, "first": "V"}}
    codes, offsets = arrays["genres.codes"].tolist(), arrays["genres.offsets"].tolist()
    genres = [None, "unseen", *encoders["genres"]["vocabulary"]]
    for row, expected in enumerate(table["genres"].to_list()):
        assert {genres[code] for code in codes[offsets[row] : offsets[row + 1]]} == set(expected)
    by_bucket = [
        {int(y) for y, code in zip(table["release_year"], arrays["year.codes"], strict=True) if y and code == bucket}
        for bucket in range(1, 11)
    ]
    assert all(max(one) < min(other) for one, other in pairwise(bucket for bucket in by_bucket if bucket))
    assert len(arrays["title.codes"]) > 20 * len(table)


@pytest.mark.parametrize(
    ("items", "table"),
    [([1, 2, 3, 4], [2, 4, 9]), (["a", "b", "c", "d"], ["b", "d", None]), ([7, 8, 9, 10], ["8", "10.0"])],
)
@pytest.mark.parametrize("specs", [{}, {"brand": {"kind": "categorical"}}])
def test_items_that_the_table_lacks(
    prepare: Prepare, tmp_path: Path, items: list[object], table: list[object], specs: dict[str, object]
) -> None:
    """The table has the second and the fourth item."""
    rows = [(session, items[(session * k + k) % 4], session * 100 + k) for session in range(40) for k in range(6)]
    events = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp"], orient="row", strict=False)
    events.write_parquet(tmp_path / "events.parquet")
    pl.DataFrame({"item_id": table, "brand": "x"}, strict=False).write_parquet(tmp_path / "items.parquet")
    settings = {"items": str(tmp_path / "items.parquet"), "features": {"items": specs}}
    lacking = [item for _, item, _ in rows if item in (items[0], items[2])]
    of_all, known = (prepare(tmp_path / "events.parquet", **settings, only_known_items=only) for only in (False, True))
    assert pl.read_parquet(of_all / "catalogue.parquet")["item_id"].to_list() == items
    assert pl.read_parquet(known / "catalogue.parquet")["item_id"].to_list() == [items[1], items[3]]
    dropped = open_prepared(known).manifest["rows"]["dropped"]
    assert dropped["item that data.items does not have"] == len(lacking)
    facts = read_json(of_all / "statistics.json", "")["unlisted_items"]
    findings = [f for f in read_json(of_all / "audit.json", "") if f["check"] == "unlisted_items"]
    if not specs:  # then the table is not read
        assert facts is None and not findings
        return
    example = max(sorted(set(map(str, lacking))), key=list(map(str, lacking)).count)
    assert facts == {"items": 2, "events": len(lacking), "of": len(rows), "example": example}
    assert f"{len(lacking) / len(rows):.1%} of the events" in findings[0]["message"]


def test_only_known_items_needs_a_table(prepare: Prepare, tmp_path: Path) -> None:
    pl.DataFrame({"session_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="only_known_items=true needs a table of items"):
        prepare(tmp_path / "a.parquet", only_known_items=True)
