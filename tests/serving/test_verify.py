"""verify sees what the checks of load cannot: a bundle in order whose answers are not the trained model's."""

import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from serving_oracle import seal

from twotower.errors import UserError
from twotower.serving import bundle as fmt
from twotower.serving.retriever import Recommendations, Retriever
from twotower.serving.verify import disagreements, verify

IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def path(make_bundle: Any) -> Path:
    return make_bundle(IDS)


def test_sound_bundle(path: Path) -> None:
    assert verify(path) < 1e-5


INPUTS = {"event_type": 3, "weekday": 8}
FEATURES = {"time_zone": "UTC", "event_types": ["cart", "view"], "input_types": [1, 2], "events": {}}


@pytest.fixture
def with_inputs(make_bundle: Any) -> Path:
    path: Path = make_bundle(IDS, inputs=INPUTS, features=FEATURES)
    return path


def test_sound_bundle_with_event_inputs(with_inputs: Path) -> None:
    assert verify(with_inputs) < 1e-4  # scores of up to 20


def test_changed_code(with_inputs: Path) -> None:
    golden = json.loads((with_inputs / fmt.GOLDEN_FILE).read_text())
    event = golden["histories"][1][1]
    event["codes"]["weekday"] = (event["codes"]["weekday"] + 1) % 8
    (with_inputs / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    seal(with_inputs)
    with pytest.raises(UserError, match="1 of 3 golden histories"):
        verify(with_inputs)


def test_swapped_order_of_inputs(with_inputs: Path) -> None:
    golden = json.loads((with_inputs / fmt.GOLDEN_FILE).read_text())
    for event in chain(*golden["histories"]):
        event["codes"] = {"event_type": event["codes"]["weekday"] % 3, "weekday": event["codes"]["event_type"]}
    (with_inputs / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    seal(with_inputs)
    with pytest.raises(UserError, match="golden histories"):
        verify(with_inputs)


def test_swapped_user_tower(make_bundle: Any, path: Path) -> None:
    shutil.copy(make_bundle(IDS, seed=1) / fmt.TOWER_FILE, path / fmt.TOWER_FILE)
    seal(path)
    Retriever.load(path)
    with pytest.raises(UserError, match=r"3 of 3 golden histories"):
        verify(path)


def test_swapped_ids(path: Path) -> None:
    table = pq.read_table(path / fmt.ITEMS_FILE)
    pq.write_table(table.set_column(0, "item_id", [["b", "a", "c", "d", "e"]]), path / fmt.ITEMS_FILE)
    seal(path)
    Retriever.load(path)
    with pytest.raises(UserError, match="golden histories"):
        verify(path)


def test_swapped_embeddings_for_people(path: Path) -> None:
    table = pq.read_table(path / fmt.ITEMS_FILE)
    pq.write_table(table.set_column(1, "embedding", table["embedding"].take([1, 0, 2, 3, 4])), path / fmt.ITEMS_FILE)
    seal(path)
    with pytest.raises(UserError, match=r"items.parquet has other embeddings"):
        verify(path)


def test_changed_answers(path: Path) -> None:
    golden = json.loads((path / fmt.GOLDEN_FILE).read_text())
    golden["scores"][1][0] += 1e-3
    (path / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    seal(path)
    with pytest.raises(UserError, match="1 of 3 golden histories"):
        verify(path)


@pytest.mark.parametrize(
    ("ids", "scores", "differs"),
    [
        ("abcd", [0.9, 0.5, 0.5, 0.1], False),
        ("acbd", [0.9, 0.5, 0.5, 0.1], False),  # a swap within a tie
        ("abcx", [0.9, 0.5, 0.5, 0.1], False),  # another item that ties with the last
        ("bacd", [0.9, 0.5, 0.5, 0.1], True),  # a swap across scores
        ("xbcd", [0.9, 0.5, 0.5, 0.1], True),  # another item above the last
        ("abbd", [0.9, 0.5, 0.5, 0.1], True),  # an item twice
        ("abcd", [0.9, 0.5, 0.5, 0.2], True),
        ("abcd", [0.9, 0.5, 0.5, np.nan], True),
        ("abc", [0.9, 0.5, 0.5], True),
    ],
)
def test_only_ties_may_change_places(ids: str, scores: list[float], differs: bool) -> None:
    expected = Recommendations([list("abcd")], np.array([[0.9, 0.5, 0.5, 0.1]], np.float32))
    answers = Recommendations([list(ids)], np.array([scores], np.float32))
    assert disagreements(answers, expected).tolist() == [differs]
