"""Vectors by a function of the user's, through the preparation of item features."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.item_features import check_specs, encode_items
from twotower.features import own_vectors
from twotower.features.own_vectors import vectors_by

ASKED: list[list[Any]] = []


def lengths(texts: list[str]) -> list[list[float]]:
    """Length and number of vowels."""
    ASKED.append(texts)
    return [[len(text), sum(letter in "aeiou" for letter in text)] for text in texts]


def wrong(texts: list[str]) -> list[float]:
    return [1.0 for _ in texts]


def undefined(texts: list[str]) -> list[list[float]]:
    return [[1.0, math.nan] for _ in texts]


def ragged(texts: list[str]) -> list[list[float]]:
    return [[1.0] * (1 + i) for i in range(2)]


def failing(texts: list[str]) -> list[list[float]]:
    raise RuntimeError("no model file")


NAME = f"{__name__}.lengths"


def test_items_have_the_function_s_vectors_by_row_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_vectors, "VALUES", 2)
    ASKED.clear()
    items = pl.DataFrame({"item_id": [1, 2, 3, 4], "title": ["red shoe", None, "été", "hat"]})
    specs = {"blurb": {"kind": "vector", "column": "title", "encode_with": NAME}}
    check_specs(specs)
    encoders, arrays, raw, _ = encode_items(items.lazy(), specs, pl.DataFrame({"item_id": [3, 1, 2, 4]}), None)
    given = {3: (3, 0), 1: (8, 3), 4: (3, 1)}
    scale = 3 / sum(math.hypot(*vector) for vector in given.values())
    expected = [[*given[i], 0] if i in given else [0, 0, 1] for i in (3, 1, 2, 4)]
    np.testing.assert_allclose(arrays["blurb.values"], np.array(expected) * [scale, scale, 1], rtol=1e-6)
    assert ASKED == [["été", "red shoe"], ["hat"]], "no null, a few at a time"
    assert encoders["blurb"]["encode_with"] == NAME and "column" not in encoders["blurb"], "updates bring vectors"
    assert raw.width == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nowhere.encode", "encode_with=nowhere.encode can't be imported .*No module named 'nowhere'"),
        (f"{__name__}.missing", "can't be imported"),
        (f"{__name__}.undefined", "gave NaN or infinity, for 'a' first"),
        (f"{__name__}.ragged", "raised ValueError: .*inhomogeneous"),
        (f"{__name__}.failing", r"raised RuntimeError: no model file \(.*test_own_vectors.py:\d+\), for 1 values"),
        (f"{__name__}.NAME", "raised TypeError"),
        (f"{__name__}.wrong", r"shape \(1,\) and type float64 for 1 values; expected one vector of numbers each"),
    ],
)
def test_what_is_no_such_function_is_named(function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        vectors_by(function, "preparation.features.items.blurb", ["a"])


def test_the_setting_wants_module_and_function() -> None:
    with pytest.raises(UserError, match=r"blurb\.encode_with=encode; expected module and function"):
        check_specs({"blurb": {"kind": "vector", "encode_with": "encode"}})
