"""verify sees what the checks of load cannot: a bundle in order whose answers are not the trained model's."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from serving_oracle import reseal

from twotower.core.errors import UserError
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE, TOWER_FILE
from twotower.serving import bundle_format as fmt
from twotower.serving.answers import Recommendations
from twotower.serving.retriever import Retriever
from twotower.serving.verify import compare, main, verify

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
    reseal(with_inputs)
    with pytest.raises(UserError, match="1 of 3 golden histories"):
        verify(with_inputs)


def test_swapped_order_of_inputs(with_inputs: Path) -> None:
    golden = json.loads((with_inputs / fmt.GOLDEN_FILE).read_text())
    for event in chain(*golden["histories"]):
        event["codes"] = {"event_type": event["codes"]["weekday"] % 3, "weekday": event["codes"]["event_type"]}
    (with_inputs / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    reseal(with_inputs)
    with pytest.raises(UserError, match="golden histories"):
        verify(with_inputs)


def test_swapped_user_tower(path: Path) -> None:
    tower = onnx.load(path / TOWER_FILE)
    offset = next(constant for constant in tower.graph.initializer if constant.name == "offset")
    offset.CopyFrom(onnx.numpy_helper.from_array(np.array(2), "offset"))  # weights 2, 3, ... and not 1, 2, ...
    onnx.save(tower, path / TOWER_FILE)
    reseal(path)
    Retriever.load(path)
    with pytest.raises(UserError, match=r"3 of 3 golden histories"):
        verify(path)


def test_swapped_ids(path: Path) -> None:
    table = pq.read_table(path / ITEMS_FILE)
    pq.write_table(table.set_column(0, "item_id", [["b", "a", "c", "d", "e"]]), path / ITEMS_FILE)
    reseal(path)
    Retriever.load(path)
    with pytest.raises(UserError, match="golden histories"):
        verify(path)


def test_swapped_embeddings_for_people(path: Path) -> None:
    table = pq.read_table(path / ITEMS_FILE)
    pq.write_table(table.set_column(1, "embedding", table["embedding"].take([1, 0, 2, 3, 4])), path / ITEMS_FILE)
    reseal(path)
    with pytest.raises(UserError, match=r"items.parquet has other embeddings"):
        verify(path)


def test_features_of_another_preparation_with_as_many_codes(with_inputs: Path) -> None:
    features = json.loads((with_inputs / FEATURES_FILE).read_text())
    features["time_zone"] = "Europe/Berlin"
    (with_inputs / FEATURES_FILE).write_text(json.dumps(features))
    reseal(with_inputs)
    Retriever.load(with_inputs)
    with pytest.raises(UserError, match=r"features.json has another features than the model"):
        verify(with_inputs)


def test_another_similarity(path: Path) -> None:
    golden = json.loads((path / fmt.GOLDEN_FILE).read_text())
    golden["origin"]["similarity"] = "cosine"
    (path / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    reseal(path)
    with pytest.raises(UserError, match=r"manifest.json has another similarity than the model"):
        verify(path)


def test_changed_answers(path: Path) -> None:
    golden = json.loads((path / fmt.GOLDEN_FILE).read_text())
    golden["scores"][1][0] += 1e-3
    (path / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    reseal(path)
    with pytest.raises(UserError, match="1 of 3 golden histories"):
        verify(path)


@pytest.mark.parametrize(
    ("ids", "scores", "is_wrong", "found"),
    [
        ("abcd", [0.9, 0.5, 0.5, 0.1], False, 1),
        ("acbd", [0.9, 0.5, 0.5, 0.1], False, 1),  # a swap within a tie
        ("abcx", [0.9, 0.5, 0.5, 0.1], False, 1),  # another item that ties with the last
        ("abcx", [0.9, 0.5, 0.5, 0.0], False, 0.75),  # one was missed
        ("bcdx", [0.5, 0.5, 0.1, 0.0], False, 0.75),
        ("bacd", [0.9, 0.5, 0.5, 0.1], True, 1),  # a swap across scores
        ("badc", [0.5, 0.9, 0.1, 0.5], True, 1),  # out of order
        ("xbcd", [0.9, 0.5, 0.5, 0.1], True, 1),  # another item above the last
        ("abbd", [0.9, 0.5, 0.5, 0.1], True, 1),  # an item twice
        ("abcd", [0.9, 0.5, 0.5, 0.2], True, 1),
        ("abcd", [0.9, 0.5, 0.5, np.nan], True, 1),
        ("abc", [0.9, 0.5, 0.5], True, 0),
    ],
)
def test_only_ties_may_change_places(ids: str, scores: list[float], is_wrong: bool, found: float) -> None:
    expected = Recommendations([list("abcd")], np.array([[0.9, 0.5, 0.5, 0.1]], np.float32))
    answers = Recommendations([list(ids)], np.array([scores], np.float32))
    compared = compare(answers, expected)
    assert compared.is_wrong.tolist() == [is_wrong]
    assert compared.recall.tolist() == [found]


def test_an_index_that_is_not_exact_may_miss_what_it_missed_at_export(path: Path) -> None:
    golden = json.loads((path / fmt.GOLDEN_FILE).read_text())
    golden["ids"][0][2], golden["scores"][0][2] = "gone", golden["scores"][0][1]  # which no search can find
    (path / fmt.GOLDEN_FILE).write_text(json.dumps(golden))
    index = json.loads((path / fmt.MANIFEST_FILE).read_text())["index"]
    reseal(path, index={**index, "golden_recall": 8 / 9})
    assert verify(path) < 1e-5
    reseal(path, index={**index, "golden_recall": 0.92})
    with pytest.raises(UserError, match=r"finds 0.8889 of the golden histories' results, at export 0.9200"):
        verify(path)
    reseal(path, index=index)  # an exact one misses nothing
    with pytest.raises(UserError, match="1 of 3 golden histories"):
        verify(path)


def test_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    assert "answers as the trained model did" in capsys.readouterr().out
    (path / fmt.INDEX_FILE).unlink()
    assert main([str(path)]) == 2
    assert "index.faiss is missing" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
