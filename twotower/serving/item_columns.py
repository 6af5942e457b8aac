"""Columns of items.parquet as arrays: numbers, or categories of which an item can have several. Shapes: V items."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.arrays import Ints, Mask


class NumberColumn(NamedTuple):
    """A column of numbers; 8 bytes an item."""

    values: npt.NDArray[Any]  # [V] int64 or float64
    is_null: Mask  # [V]


class CategoryColumn(NamedTuple):
    """A column of texts or lists of texts: none, one or several for an item; 8 bytes an item and 4 a text."""

    codes: npt.NDArray[np.int32]  # [all texts of all items]
    offsets: Ints  # [V + 1] item row r has codes[offsets[r]:offsets[r + 1]]
    values: pa.Array  # the distinct texts, by code


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type is taken as numbers; all others are taken as texts."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def number_column(values: pa.ChunkedArray) -> NumberColumn:
    """Read a column [V] of numbers; integers stay exact, NaN counts as null."""
    is_float = pa.types.is_floating(values.type)
    is_null = pc.is_null(values, nan_is_null=is_float).to_numpy()
    return NumberColumn(pc.fill_null(values, 0).to_numpy().astype(np.float64 if is_float else np.int64), is_null)


def category_column(column: pa.ChunkedArray) -> CategoryColumn:
    """Read a column [V] of texts or lists of texts; values of other types become their text.

    >>> category_column(pa.chunked_array([["red", "blue", None, "red"]])).codes
    array([0, 1, 0], dtype=int32)
    """
    text = pa.large_string()  # all texts together may have more than 2 GiB
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = column.cast(pa.large_list(text) if is_list else text).combine_chunks()
    if is_list:
        length = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        values = values.flatten()
        item = np.repeat(np.arange(len(length)), length)[pc.is_valid(values).to_numpy(zero_copy_only=False)]
        length = np.bincount(item, minlength=len(length))
    else:
        length = pc.is_valid(values).to_numpy(zero_copy_only=False).astype(np.int64)
    encoded = values.drop_null().dictionary_encode()
    offsets = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    return CategoryColumn(encoded.indices.to_numpy(zero_copy_only=False), offsets, encoded.dictionary)
