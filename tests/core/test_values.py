"""One text form for values of any type, in Python and in polars; ids that are healed; hit rates."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.core.errors import UserError
from twotower.core.matches import Match
from twotower.core.values import NULLS, STEPS, TextForm, check_steps, healing, number_of, text_of
from twotower.data import text_form

SAME: list[tuple[list[Any], str | None]] = [
    ([12, 12.0, "12", "12.0", "12.00", np.int8(12), np.float32(12)], "12"),
    ([True, "True", "TRUE", "true", np.bool_(True)], "true"),
    ([False, "False", "FALSE", "false"], "false"),
    ([0, 0.0, -0.0, "0.0", "-0.0"], "0"),
    ([0.1, np.float32(0.1), "0.1"], "0.1"),
    ([1e-7, "1e-07"], "1e-07"),
    ([None, math.nan, math.inf, "", *NULLS, [1], {}], None),
]
DIFFERENT = ["007", "7", " 7", "7 ", "SKU", "sku", "1.10", "1.1", "1.0.0", "1", "1e5", "na", "none", "no"]
WORDS = ["True", "NaN", "NA", "null", "", "-0", "-0.0", "12.0", "12.00", "+5.0", "00.0", "1.0.0", "a.0", ".0", "NA\n"]
words = st.one_of(st.sampled_from(WORDS), st.text("0.-+ aA", max_size=6), st.text(max_size=4))
properties = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(("values", "expected"), SAME)
def test_the_same_thing_has_one_text(values: list[Any], expected: str | None) -> None:
    assert [text_of(value) for value in values] == [expected] * len(values)


def test_other_texts_stay_as_they_are() -> None:
    assert [text_of(text) for text in DIFFERENT] == DIFFERENT
    assert text_of("NA", nulls=["-"]) == "NA" and text_of("-", nulls=["-"]) is None


@properties
@given(st.lists(st.none() | words), st.sampled_from([NULLS, (), ("x", ".*", "[")]))
def test_polars_gives_texts_the_same_form(values: list[str | None], nulls: tuple[str, ...]) -> None:
    once = text_form.texts(pl.Series("a", values, pl.String), nulls)
    assert once.to_list() == [text_of(value, nulls) for value in values]
    assert text_form.texts(once, nulls).to_list() == once.to_list(), "a text form stays"


@properties
@given(st.lists(st.none() | st.floats()), st.sampled_from([pl.Float64, pl.Float32]))
def test_polars_gives_floats_the_same_form(values: list[float | None], dtype: Any) -> None:
    column = pl.Series("a", values, pl.Float64).cast(dtype)
    given = [None if value is None else kind for value, kind in zip(column, column.to_numpy(), strict=True)]
    assert text_form.texts(column).to_list() == [text_of(value) for value in given]


@properties
@given(st.lists(st.none() | words), st.sets(st.sampled_from(STEPS)))
def test_polars_heals_ids_the_same_way(values: list[str | None], steps: set[str]) -> None:
    form = TextForm(ids=tuple(steps))
    assert text_form.ids(pl.Series("a", values, pl.String), form).to_list() == [form.id(value) for value in values]


@pytest.mark.parametrize(
    ("value", "decimal", "expected"),
    [
        ("12,99", ",", 12.99), ("1.299,50", ",", 1299.5), ("-3,5", ",", -3.5),
        ("7", ",", 7), ("True", ".", 1), (2.5, ",", 2.5),
    ],
)  # fmt: skip
def test_numbers(value: Any, decimal: str, expected: float) -> None:
    assert number_of(value, decimal) == expected


@pytest.mark.parametrize(
    ("value", "decimal"), [("12,99", "."), ("12.99", ","), ("1,2,3", ","), ("red", "."), (None, ",")]
)
def test_what_is_no_number(value: Any, decimal: str) -> None:
    assert math.isnan(number_of(value, decimal))


@pytest.mark.parametrize(
    ("ids", "others", "steps"),
    [
        (["A", "B"], ["a", "b"], ("case",)),
        (["1", "2"], ["001 ", "002 "], ("strip", "zeros")),
        (["x", "y"], ["q"], ()),
        (["a", "b"], ["a", "b"], ()),
    ],
)
def test_what_would_heal(ids: list[str], others: list[str], steps: tuple[str, ...]) -> None:
    assert healing(ids, others)[0] == steps


def test_hit_rates() -> None:
    assert Match("list", "ids", 2, 4, ["x"], ["y"]).warning is None
    assert Match("list", "ids", 0, 0).require().warning is None
    low = Match("list", "ids", 1, 4, ["x", "Y"], ["y", "z"], "look")
    assert (
        low.require().warning
        == "list: 1 of 4 ids matched; 'Y' did not, among ids like 'y'. preparation.ids=[case] makes them equal"
    )
    with pytest.raises(UserError, match=r"0 of 4 ids matched; 'x' did not, among ids like 'q'. look"):
        Match("list", "ids", 0, 4, ["x"], ["q"], "look").require()
    with pytest.raises(UserError, match=r"preparation.ids has 'zero'; did you mean 'zeros'"):
        check_steps(["zero"])
