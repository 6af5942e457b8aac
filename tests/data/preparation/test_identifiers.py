"""Item ids in one form, and codes and ranks of values."""

import numpy as np
import polars as pl
import pytest

from twotower.data.preparation.identifiers import Dictionary, normalise_item_ids, ranks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["12", "3", None], [12, 3, None]),
        (["12", "x"], ["12", "x"]),
        (["12", "007"], ["12", "007"]),  # which 7 would not be
        (["12.5", "3"], ["12.5", "3"]),
    ],
)
def test_whole_numbers_are_integers_if_all_ids_are(values: list[str | None], expected: list[object]) -> None:
    assert normalise_item_ids(pl.Series(values)).to_list() == expected


@pytest.mark.parametrize("dtype", [pl.String, pl.Int64])
def test_a_dictionary_gives_each_value_one_code(dtype: type[pl.DataType]) -> None:
    random = np.random.default_rng(0)
    dictionary, code_of = Dictionary(), {}
    for _ in range(5):
        values = [None if v == 0 else v for v in random.integers(0, 100, 150).tolist()]
        column = pl.Series("item", values, dtype=pl.Int64).cast(dtype)
        codes = dictionary.encode(column)
        assert (codes.dtype, codes.name) == (pl.UInt32, "item")
        for value, code in zip(column.to_list(), codes.to_list(), strict=True):
            assert code_of.setdefault(value, code) == code
    assert code_of[None] == 0
    by_code = {code: value for value, code in code_of.items() if code}
    assert sorted(by_code) == list(range(1, len(by_code) + 1))
    assert dictionary.values.to_list() == [by_code[code] for code in sorted(by_code)]


def test_a_dictionary_that_saw_nothing() -> None:
    assert Dictionary().values.to_list() == []
    dictionary = Dictionary()
    assert dictionary.encode(pl.Series("a", [None, None], dtype=pl.String)).to_list() == [0, 0]
    assert dictionary.values.to_list() == []
    values, lut = ranks(dictionary.values)
    assert (values.to_list(), lut.tolist()) == ([], [0])


def test_ranks_do_not_depend_on_the_order_of_appearance() -> None:
    values, lut = ranks(pl.Series(["pear", "fig", "zebra", "apple", "fig"]))
    assert values.to_list() == ["apple", "fig", "pear", "zebra"]
    assert lut.tolist() == [0, 3, 2, 4, 1, 2]
