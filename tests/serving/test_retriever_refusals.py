"""What comes from outside and can't be answered is refused, and the message says why."""

import math
from typing import Any

import numpy as np
import pytest
from naive_shop import COLUMNS, COUNTS
from naive_shop import IDS as SHOP

from twotower.core.errors import UserError
from twotower.serving.retriever import Retriever

IDS = [10, 20, 30, 40, 50, 60, 70]
WORDS = ["apple", "10", ""]


@pytest.fixture(scope="module")
def retriever(make_bundle: Any) -> Retriever:
    return Retriever.load(make_bundle(IDS))


@pytest.fixture(scope="module")
def shop(make_bundle: Any) -> Retriever:
    return Retriever.load(make_bundle(SHOP, COUNTS, columns=COLUMNS))


@pytest.mark.parametrize(
    ("histories", "k", "reason"),
    [
        ("10", 3, "list of histories"),
        ([10, 20], 3, r"histories\[0\] is 10.*\[\[\.\.\.\]\]"),
        (["10", "20"], 3, r"histories\[0\] is '10'"),
        ({10: 20}, 3, "list of histories"),
        ([{10, 20}], 3, r"histories\[0\]"),
        (None, 3, "list of histories"),
        ([None], 3, r"histories\[0\] is None"),
        ([[[10]]], 3, "hold lists"),
        ([[10]], 0, "k is 0"),
        ([[10]], -1, "k is -1"),
        ([[10]], 2.5, "k is 2.5"),
        ([[10]], True, "k is True"),
        ([["ten"], ["1.5"]], 3, "of type int: '1.5' is of type str.*like 10; convert"),
        ([[10.5]], 3, "of type float"),
    ],
)
def test_wrong_requests_are_refused(retriever: Retriever, histories: Any, k: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        retriever.recommend(histories, k)


def test_ids_are_compared_by_their_text(make_bundle: Any) -> None:
    retriever = Retriever.load(make_bundle(WORDS))
    assert np.isnan(retriever.recommend([["unknown", 11]]).scores).all()
    with pytest.raises(UserError, match="of type str: nan is of type float"):
        retriever.recommend([[float("nan")]])
    retriever = Retriever.load(make_bundle(IDS))
    for one, other in (("10", 10), (10.0, 10), (np.float64(20), 20), ("20.0", 20)):
        np.testing.assert_array_equal(retriever.encode([[one]]), retriever.encode([[other]]))


LOOP: dict[str, Any] = {}
LOOP["not"] = LOOP
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"filters": {"brnd": "a"}}, "names 'brnd'.*did you mean 'brand'"),
    ({"filters": {"embedding": 1}}, "names 'embedding'"),
    ({"filters": "brand"}, "a filter is 'brand'"),
    ({"filters": [{"brand": "a"}]}, "a filter is"),
    ({"filters": {"brand": {"min": 1}}}, "'brand' has texts"),
    ({"filters": {"price": "cheap"}}, "'price' has numbers"),
    ({"filters": LOOP}, "nested more than"),
    ({"include": "100"}, "include is '100'; expected a list"),
    ({"include": 100}, "include is 100"),
    ({"include": ["x"]}, "include is of type int.*'x' is of type str"),
    ({"include": [[100]]}, "include hold"),
    ({"include": {"item_id": 100}}, "include is"),
    ({"exclude": "100"}, "exclude is '100'; expected a list"),
    ({"exclude": ["a"]}, "exclude is of type int"),
    ({"max_per": {"brnd": 1}}, "max_per names 'brnd'.*did you mean 'brand'"),
    ({"max_per": {"price": 1}}, "max_per names 'price'"),
    ({"max_per": {"brand": 0}}, "max_per of 'brand' is 0"),
    ({"max_per": {"brand": 1.5}}, "max_per of 'brand' is 1.5"),
    ({"max_per": ["brand"]}, "max_per is"),
    ({"exploration": 2.0}, "exploration is 2.0"),
    ({"exploration": -0.1}, "exploration is -0.1"),
    ({"exploration": math.nan}, "exploration is nan"),
    ({"exploration": "0.1"}, "exploration is '0.1'"),
    ({"exploration": None}, "exploration is None"),
    ({"exploration": True}, "exploration is True"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 1.0}, "seed is 1.0"),
    ({"seed": "1"}, "seed is '1'"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"k": True}, "k is True"),
    ({"k": 0}, "k is 0"),
    ({"k": None}, "k is None"),
    ({"k": "5"}, "k is '5'"),
    ({"k": 5.0}, "k is 5.0"),
    ({"context": "phone"}, "context is 'phone'"),
    ({"context": ["phone"]}, "context is"),
    ({"context": 5}, "context is 5"),
]


@pytest.mark.parametrize(("asked", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_wrong_wishes_are_refused(shop: Retriever, asked: dict[str, Any], reason: str) -> None:
    for histories in ([[100]], [[]]):
        with pytest.raises(UserError, match=reason) as refused:
            shop.recommend(histories, **asked)
        assert len(str(refused.value)) < 500


def test_wrong_wishes_are_refused_where_nothing_is_explored(shop: Retriever) -> None:
    with pytest.raises(UserError, match="seed is -1"):
        shop.recommend([[100]], exploration=0, seed=-1)


def test_a_huge_k_is_all_there_is(shop: Retriever) -> None:
    for more in ({}, {"exploration": 0.5}, {"max_per": {"brand": 60}}, {"exclude_seen": True}):
        found = shop.recommend([[], [999]], 10**30, **more)
        assert [sorted(ids) for ids in found.ids] == [SHOP, SHOP]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ("100", "items is '100'; expected a list of item ids"),
        (100, "items is 100; expected a list of item ids"),
        ({100: 1}, "items is .*expected a list of item ids"),
        ([[100]], "items hold lists"),
        (["0100"], "items is of type int.*'0100' is of type str"),
        ([1.5], "items is of type int"),
    ],
)
def test_wrong_items_are_refused(shop: Retriever, items: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        shop.similar_items(items)
    with pytest.raises(UserError, match=reason):
        shop.audience(items, [[100]])


def test_neighbours_and_audiences_refuse_what_recommend_refuses(shop: Retriever) -> None:
    for asked, reason in WRONG:
        if asked.keys() <= {"filters", "include", "exclude", "max_per", "k"}:
            with pytest.raises(UserError, match=reason):
                shop.similar_items([100], **asked)
        if "k" in asked:
            with pytest.raises(UserError, match=reason):
                shop.audience([100], [[100]], **asked)
        if "context" in asked:
            with pytest.raises(UserError, match=reason):
                shop.encode([[100]], **asked)
    for histories in ("10", [100], [["x"]], None):
        with pytest.raises(UserError, match="histories"):
            shop.audience([100], histories)
        with pytest.raises(UserError, match="histories"):
            shop.encode(histories)


@pytest.mark.parametrize("time", [10**400, -(10**400), -1, 1.5, 1e300], ids=["huge", "least", "-1", "1.5", "1e300"])
def test_impossible_times_are_refused(make_bundle: Any, time: Any) -> None:
    clock = {"time_zone": "UTC", "event_types": [], "input_types": [], "events": {}}
    retriever = Retriever.load(make_bundle(IDS, inputs={"gap": 64}, features=clock))
    with pytest.raises(UserError, match="timestamp"):
        retriever.recommend([[{"item_id": 10, "timestamp": time}]])
