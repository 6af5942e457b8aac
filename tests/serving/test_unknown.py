"""What a request names and the bundle lacks is counted, warned of once, or refused; against naive counts."""

import itertools
import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
from naive_shop import BRAND, COLUMNS, COUNTS, IDS, PRICE, VALUES, naive_list, naive_scores
from test_event_encoder import DEVICES, INPUTS, SIZES, TYPES, features, raw_events
from test_event_encoder import IDS as FEW

from twotower.core.errors import UserError
from twotower.serving.bundle_format import EMBEDDINGS_FILE
from twotower.serving.retrieve import main
from twotower.serving.retriever import Retriever
from twotower.serving.unknown import Unknown


@pytest.fixture(scope="module")
def shop(make_bundle: Any) -> Any:
    return make_bundle(IDS, COUNTS, columns=COLUMNS)


@pytest.fixture(scope="module")
def events_bundle(make_bundle: Any) -> Any:
    return make_bundle(FEW, inputs={name: SIZES[name] for name in INPUTS}, features=features("Europe/Berlin"))


def naive_counts(histories: list[list[Any]]) -> dict[str, int]:
    """By a loop over events, one at a time."""
    count: Counter[str] = Counter()
    for event in (event for history in histories for event in history):
        event = event if isinstance(event, dict) else {"item_id": event}
        count["ids in histories"] += event["item_id"] not in FEW
        count["event types"] += event.get("event_type") not in [None, *TYPES]
        count["values of ua"] += event.get("ua") not in [None, *DEVICES]
        count["values of age"] += event.get("age") == "old"
    keys = {key for history in histories for event in history if isinstance(event, dict) for key in event}
    count["event keys"] += len(keys - {"item_id", "event_type", "timestamp", "ua", "age"})
    return {kind: number for kind, number in count.items() if number}


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_events_equal_a_naive_loop(events_bundle: Any, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(seed)
    retriever = Retriever.load(events_bundle)
    assert retriever.unknown == {} and not caplog.records
    expected: Counter[str] = Counter()
    for _ in range(3):
        histories = [raw_events(random, n) for n in (1, 5, 40)]
        for event in (e for h in histories for e in h if isinstance(e, dict) and random.random() < 0.05):
            event |= {"age": "old", "colour": None}
        retriever.recommend(histories)
        expected.update(naive_counts(histories))
    assert retriever.unknown == dict(expected)
    assert len(caplog.records) == len(expected)  # once of each kind


NAMED: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"histories": [[1, 100], [2], [1]]}, {"ids in histories": 3}),
    ({"include": [100, 1, 2]}, {"ids in include": 2}),
    ({"exclude": [1, 100]}, {"ids in exclude": 1}),
    ({"exclude": [[1, 100, 5], [], [6]], "histories": [[100]] * 3}, {"ids in exclude": 3}),
    ({"filters": {"brand": "x"}}, {"filter of brand": 1}),
    ({"filters": {"brand": ["a", "x", "y", "b"]}}, {"filter of brand": 2}),
    ({"filters": {"price": [max(p for p in PRICE if p), 0.5, 1000]}}, {"filter of price": 2}),
    ({"filters": {"price": {"min": 1000}}}, {"filter of price": 1}),
    ({"filters": {"not": {"tags": ["x", "q"]}, "any": [{"brand": "a"}, {"brand": "A"}]}},
     {"filter of tags": 1, "filter of brand": 1}),
    ({"filters": {"item_id": [100, 101, None]}}, {"filter of item_id": 2}),
    ({"context": {"page": "home"}}, {"event keys": 1}),
    ({"histories": [[{"item_id": 100, "page": 1, "x": 2, "event_type": "view", "timestamp": 10**12}]]},
     {"event keys": 2}),
    ({"filters": {"brand": None, "price": None}, "exclude": [], "include": [100]}, {}),
    ({"filters": {"brand": sorted({*BRAND}, key=str), "tags": sorted({*itertools.chain(*VALUES["tags"])})}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "expected"), NAMED, ids=[str(asked) for asked, _ in NAMED])
def test_each_kind_is_counted_or_refused(shop: Any, asked: dict[str, Any], expected: dict[str, int]) -> None:
    asked = {"histories": [[100]], **asked}
    retriever, strict = Retriever.load(shop), Retriever.load(shop, strict=True)
    for times in (1, 2):  # the second time a filter's mask is a kept one
        retriever.recommend(**asked)
        assert retriever.unknown == {kind: times * count for kind, count in expected.items()}
        if not expected:
            assert strict.recommend(**asked).ids == retriever.recommend(**asked).ids
            continue
        with pytest.raises(UserError, match=r" known; unknown is, e\.g\., ") as refused:
            strict.recommend(**asked)
        assert str(refused.value).split(":")[0] in expected and len(str(refused.value)) < 500


@pytest.mark.parametrize("items", [[999], [1, 100, 2], [7, 8, 9]])
def test_items_that_are_asked_for_by_id(shop: Any, items: list[int]) -> None:
    retriever, strict = Retriever.load(shop), Retriever.load(shop, strict=True)
    similar, audience = retriever.similar_items(items, 3), retriever.audience(items, [[100], [107]], 3)
    for row, item in enumerate(items):
        assert (similar.ids[row] == []) == (audience.histories[row] == []) == (item not in IDS)
    assert retriever.unknown == {"ids in items": 2 * sum(item not in IDS for item in items)}
    for ask in (strict.similar_items, lambda items: strict.audience(items, [[100]])):
        with pytest.raises(UserError, match=r"ids in items: . of . known.*Expected ids like 100"):
            ask(items)
        assert strict.similar_items([100]).ids


def test_a_kind_is_warned_of_once_and_a_list_of_none_that_match_each_time(caplog: Any) -> None:
    unknown = Unknown()
    unknown.note("event types", [], 5, ["view"])
    assert not caplog.records
    for values, number in ((["buy"], 3), (["sell"], 1)):
        unknown.note("event types", values, number, ["view", "cart"])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "event types: 2 of 3 known; unknown is, e.g., 'buy'. Expected 'view', 'cart'" in record.getMessage()
    caplog.clear()
    for values, number in (["x"], 2), (["x"], 2), (["x", "y"], 2), (["x"], 1):
        unknown.note("filter of brand", values, number, "a word", each_time=True)
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        f"filter of brand: {share} known" for share in ("1 of 2", "0 of 2", "0 of 1")
    ]
    assert unknown.counts == {"event types": 2, "filter of brand": 5}
    caplog.clear()
    unknown.note("other", ["x" * 10_000], 1, [str(n) for n in range(1000)])
    assert "'9' and 990 more" in caplog.text and len(caplog.text) < 500


@pytest.mark.parametrize("seed", range(8))
def test_one_list_for_each_history_equals_a_naive_loop(shop: Any, seed: int) -> None:
    random, vectors = np.random.default_rng(seed), np.load(shop / EMBEDDINGS_FILE)
    histories = [random.choice([*IDS, 999], length).tolist() for length in (0, 1, 3, 9)]
    exclude = [random.choice([*IDS, 1], length).tolist() for length in random.integers(0, 50, 4)]
    asked = {"exclude_seen": bool(seed % 2), "include": IDS[seed:] if seed % 3 else None}
    kind = (list, tuple, set, np.array)[seed % 4]
    results = Retriever.load(shop).recommend(histories, 7, exclude=[kind(ids) for ids in exclude], **asked)
    for row, (history, ids) in enumerate(zip(histories, exclude, strict=True)):
        left_out = [*ids, *(history if asked["exclude_seen"] else [])]
        expected, scores = naive_list(naive_scores(vectors, history), 7, exclude=left_out, include=asked["include"])
        assert results.ids[row] == expected
        np.testing.assert_allclose(results.scores[row, : len(scores)], scores, rtol=1e-5, atol=1e-5)
    similar = Retriever.load(shop).similar_items(IDS[:4], 99, exclude=exclude)
    for item, ids, found in zip(IDS, exclude, similar.ids, strict=False):
        assert {*found} == {*IDS} - {*ids, item}


@pytest.mark.parametrize("exclude", [[[100]], [[100], [107], [114]], [[100], 107], [100, [107]]])
def test_lists_that_fit_no_history_are_refused(shop: Any, exclude: Any) -> None:
    with pytest.raises(UserError, match="or one such list for each of the 2 histories"):
        Retriever.load(shop).recommend([[100], [107]], exclude=exclude)


def test_the_command_counts_or_refuses(shop: Any, capsys: Any, caplog: Any) -> None:
    assert main([str(shop), "100", "999"]) == 0
    assert "ids in histories: 1 of 2 known; unknown is, e.g., '999'" in caplog.text
    for line in ([str(shop), "--strict", "100", "999"], [str(shop), "100", "999", "--strict"]):
        assert main(line) == 2
        assert "error: ids in histories: 1 of 2 known" in capsys.readouterr().err
    assert main([str(shop), "--strict", "100", "107"]) == 0
    assert main([str(shop), "--strict"]) == 2
