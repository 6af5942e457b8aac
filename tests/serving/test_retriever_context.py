"""User vectors after histories, and what holds for a whole request, with a tower that NumPy can follow."""

from typing import Any

import numpy as np
import pytest
from naive_shop import IDS as SHOP
from serving_oracle import DIM, MAX_LENGTH, toy_tables, toy_user

from twotower.core.errors import UserError
from twotower.features import fit
from twotower.serving.bundle_format import EMBEDDINGS_FILE
from twotower.serving.retriever import Retriever

IDS = [10, 20, 30, 40, 50]
DEVICES = ["desktop", "phone", "tablet"]
INPUTS = {"event_type": 3, "device": 5, "weekday": 8}  # 0 unknown; a device may be one that training did not have
CODE = {None: 0, "fridge": 1, "desktop": 2, "phone": 3, "tablet": 4}
FEATURES = {
    "time_zone": "UTC",
    "event_types": ["cart", "view"],
    "input_types": [1, 2],
    "events": {"device": {**fit("device", {"kind": "categorical"}, DEVICES), "column": "ua"}},
}
MONDAY = 1_743_379_200_000  # 31 March 2025


@pytest.fixture(scope="module")
def path(make_bundle: Any) -> Any:
    return make_bundle(IDS, inputs=INPUTS, features=FEATURES)


@pytest.fixture(scope="module")
def retriever(path: Any) -> Retriever:
    return Retriever.load(path)


def by_hand(path: Any, history: list[int], codes: list[list[int]]) -> Any:
    return toy_user(np.load(path / EMBEDDINGS_FILE), history, codes, toy_tables(INPUTS))


def test_context_holds_for_events_that_do_not_say_otherwise(path: Any, retriever: Retriever) -> None:
    history = [10, {"item_id": 20}, {"item_id": 30, "ua": "tablet"}, {"item_id": 40, "event_type": "cart", "ua": None}]
    context = {"ua": "phone", "event_type": "view", "timestamp": MONDAY}
    expected = by_hand(path, [1, 2, 3, 4], [[2, 3, 1], [2, 3, 1], [2, 4, 1], [1, 0, 1]])
    np.testing.assert_allclose(retriever.encode([history], context), [expected], rtol=1e-5)
    said = [{**context, **(event if isinstance(event, dict) else {"item_id": event})} for event in history]
    answers, spelt = retriever.recommend([history, [20]], 5, context=context), retriever.recommend([said], 5)
    assert answers.ids[0] == spelt.ids[0]
    np.testing.assert_allclose(answers.scores[0], spelt.scores[0], rtol=1e-5)
    alone = by_hand(path, [2], [[2, 3, 1]])
    np.testing.assert_allclose(retriever.encode([history, [20]], context)[1], alone, rtol=1e-5)


@pytest.mark.parametrize("device", list(CODE))
def test_context_alone(path: Any, retriever: Retriever, device: str | None) -> None:
    found = retriever.encode([[10, 20]], {"ua": device})
    np.testing.assert_allclose(found, [by_hand(path, [1, 2], [[0, CODE[device], 0]] * 2)], rtol=1e-5)


def test_no_context_is_unknown(path: Any, retriever: Retriever) -> None:
    plain = [by_hand(path, [1, 2], [[0, 0, 0]] * 2)]
    for context in (None, {}, {"page": 3}):
        np.testing.assert_allclose(retriever.encode([[10, 20]], context), plain, rtol=1e-5)


def test_context_without_known_items_is_of_no_use(retriever: Retriever) -> None:
    for histories in ([[]], [[999]], [[{"item_id": 999}], []]):
        found = retriever.recommend(histories, 3, context={"ua": "phone"})
        assert np.isnan(found.scores).all()
    assert retriever.encode([], {"ua": "phone"}).shape == (0, DIM)


def test_context_that_is_misspelt(retriever: Retriever) -> None:
    with pytest.raises(UserError, match=r"key 'event-type'.*did you mean 'event_type'"):
        retriever.recommend([[10]], context={"event-type": "view"})


def test_context_is_left_alone(retriever: Retriever) -> None:
    context, history = {"ua": "phone"}, [{"item_id": 10}]
    retriever.recommend([history], context=context)
    assert (context, history) == ({"ua": "phone"}, [{"item_id": 10}])


def test_context_names_no_item(retriever: Retriever) -> None:
    with pytest.raises(UserError, match="item_id"):
        retriever.recommend([[{"event_type": "view"}]], context={"item_id": 10})


def test_context_of_a_model_without_inputs_makes_no_difference(make_bundle: Any) -> None:
    retriever = Retriever.load(make_bundle(IDS))
    found = retriever.recommend([[10, {"item_id": 20}]], 5, context={"ua": "phone"})
    assert found.ids == retriever.recommend([[10, 20]], 5).ids


def test_encode(make_bundle: Any) -> None:
    path = make_bundle(SHOP)
    retriever, vectors = Retriever.load(path), np.load(path / EMBEDDINGS_FILE)
    random = np.random.default_rng(4)
    histories = [random.choice([*SHOP, 999], random.integers(0, 9)).tolist() for _ in range(3000)]
    found = retriever.encode(histories)
    assert found.shape == (3000, DIM)
    assert found.dtype == np.float32
    for history, vector in zip(histories, found, strict=True):
        known = [SHOP.index(item) + 1 for item in history if item in SHOP][-MAX_LENGTH:]
        expected = toy_user(vectors, known) if known else np.full(DIM, np.nan)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
    for row in range(20):
        np.testing.assert_allclose(retriever.encode([histories[row]])[0], found[row], rtol=1e-5)
    assert np.isnan(found[:, 0]).any()
    assert retriever.encode([]).shape == (0, DIM)
