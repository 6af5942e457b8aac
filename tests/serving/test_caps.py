"""Caps on results against a naive loop, and the columns that they count in."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from twotower.serving.caps import Cap, within_caps
from twotower.serving.item_columns import category_column

brands = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=12, max_size=12)
tags = st.lists(st.none() | st.lists(st.sampled_from(["x", "y", None]), max_size=3), min_size=12, max_size=12)


def naive_caps(rows: list[int], columns: list[tuple[list[Any], int]], enough: int) -> list[int]:
    kept: list[int] = []
    for place, row in enumerate(rows):
        fits = True
        for column, limit in columns:
            as_lists = [v if isinstance(v, list) else [v] for v in column]
            for value in as_lists[row]:
                before = sum(value in as_lists[rows[other]] for other in kept)
                fits &= value is None or before < limit
        if fits and len(kept) < enough:
            kept.append(place)
    return kept


@given(brands, tags, st.permutations(range(12)), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
def test_caps_equal_a_naive_loop(
    brand: list[Any], tag: list[Any], rows: list[int], most: int, tags_most: int, enough: int
) -> None:
    texts, lists = pa.chunked_array([pa.array(brand, pa.string())]), pa.array(tag, pa.list_(pa.string()))
    caps = [Cap(category_column(texts), most), Cap(category_column(pa.chunked_array([lists])), tags_most)]
    found = within_caps(np.array(rows), caps, enough)
    assert found.tolist() == naive_caps(rows, [(brand, most), (tag, tags_most)], enough)


def test_what_one_cap_leaves_out_counts_under_no_other() -> None:
    """Row 1 is left out by its colour, so that row 2 is the first of its brand."""
    brand, colour = (pa.chunked_array([values]) for values in (["a", "b", "b"], ["red", "red", "blue"]))
    caps = [Cap(category_column(brand), 1), Cap(category_column(colour), 1)]
    assert within_caps(np.arange(3), caps, 3).tolist() == [0, 2]


def test_groups_of_a_column_in_parts() -> None:
    parts = pa.chunked_array([pa.array([["b", "a"], None]), pa.array([[], ["a", None]])])
    groups = category_column(parts)
    named = [groups.values[int(code)].as_py() for code in groups.codes]
    assert [named[i:j] for i, j in zip(groups.offsets, groups.offsets[1:], strict=False)] == [["b", "a"], [], [], ["a"]]
