"""Requests have the text form of training: True, "True" and "true"; 38, 38.0 and "38.0"; null words; healed ids."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from twotower.core.values import TextForm
from twotower.features import fit
from twotower.serving.catalogue import Catalogue
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.predicates import checked
from twotower.serving.unknown import Unknown

FORM = TextForm(nulls=("NA", "-"), ids=("strip", "case", "zeros"))
ENCODERS = {
    "is_app": fit("is_app", {"kind": "categorical"}, ["True", False], nulls=FORM.nulls or ()),
    "size": fit("size", {"kind": "categorical"}, [38.0, "37.0"], nulls=FORM.nulls or ()),
    "age": fit("age", {"kind": "numeric", "edges": [30]}, [20, 40], nulls=FORM.nulls or ()),
}
FEATURES = {
    "time_zone": "UTC", "event_types": ["1", "true"], "input_types": [1, 2], "events": ENCODERS,
    "values": FORM.as_json(),
}  # fmt: skip
ALIKE: list[tuple[str, list[Any], int]] = [
    ("is_app", [True, "True", "TRUE", "true", np.bool_(True)], 3),
    ("is_app", [False, "False", "false"], 2),
    ("size", [38, 38.0, "38", "38.0", np.float32(38)], 3),
    ("size", ["-", "NA", "", None, float("nan")], 0),
    ("size", ["nan", 39], 1),  # no null word here; unseen
    ("age", [40, "40", "40.0", 40.0], 2),
    ("age", ["NA", "-", None, "old"], 0),
    ("event_type", [1, 1.0, "1.0", "1"], 1),
    ("event_type", [True, "True"], 2),
    ("event_type", ["NA", None, 7], 0),
]


@pytest.mark.parametrize(("name", "values", "code"), ALIKE)
def test_events(name: str, values: list[Any], code: int) -> None:
    encoder = EventEncoder([name], FEATURES)
    codes = encoder.codes([{name: value} for value in values], np.ones(len(values), dtype=bool))
    assert codes[:, 0].tolist() == [code] * len(values)


def test_artifacts_of_earlier_versions_keep_their_texts() -> None:
    old = {"kind": "categorical", "out_of_vocabulary": 1, "vocabulary": ["36.0", "True", "nan"]}
    features = {**FEATURES, "event_types": ["1.0", "NA"], "events": {"size": old}}
    del features["values"]
    encoder = EventEncoder(["size", "event_type"], features)
    events = [{"size": text, "event_type": kind} for text, kind in (("36.0", "1.0"), ("True", "NA"), ("nan", "x"))]
    assert encoder.codes(events, np.ones(3, dtype=bool)).tolist() == [[2, 1], [3, 2], [4, 0]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(38.0, ["38"]), ("38.0", ["38"]), (["True", True], ["true", "true"]), ("-", [None]), ("", [None])],
)
def test_filters_of_texts(value: Any, expected: list[Any]) -> None:
    assert checked({"size": value}, {"size": False}, FORM) == {"size": expected}


@pytest.mark.parametrize(("value", "expected"), [("38", [38]), ("9.5", [9.5]), ("NA", [None]), ("True", [1.0])])
def test_filters_of_numbers(value: Any, expected: list[Any]) -> None:
    assert checked({"price": value}, {"price": True}, FORM) == {"price": expected}


def test_ids() -> None:
    texts, numbers = Catalogue(pa.array(["sku-1", "7"]), FORM), Catalogue(pa.array([7, 10]), FORM)
    assert texts.item_index(["SKU-1 ", "sku-1", 7, 7.0, "007", "x"], "items", Unknown()).tolist() == [1, 1, 2, 2, 2, 0]
    assert numbers.item_index(["10", 10.0, "0010", " 7", np.int64(7), "x", None], "items", Unknown()).tolist() == [
        2,
        2,
        2,
        1,
        1,
        0,
        0,
    ]
