"""A table of items that a delta brings: checked, in the catalogue's types, and beside what the bundle has of them.

Shapes: n items of the table, V items of the bundle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.core.errors import UserError, nearest
from twotower.core.schema import AGE_DAYS, ITEM_ID, ITEM_NAME, TRAIN_COUNT
from twotower.features import Dense, Encoder, encode, raw_values

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TYPES = {"multi": pa.list_(pa.string()), "numeric": pa.float64()}  # of raw values by an encoder's kind; else texts
SEPARATOR = "\x1f"
LEARNT = (TRAIN_COUNT, AGE_DAYS)  # what events tell of an item: nothing of a new one, which has 0


class Given(NamedTuple):
    """What a table says of n items."""

    columns: pa.Table  # [n] ITEM_ID in the catalogue's type, and raw values of the features that it has, but vectors
    numbers: dict[str, Floats]  # of vectors, as encoded [n, width]

    @property
    def ids(self) -> pa.Array:
        """[n]."""
        return self.columns[ITEM_ID].combine_chunks()


def read_given(items: pa.Table | str | Path, id_type: pa.DataType, encoders: Mapping[str, Encoder]) -> Given:
    """Read and check a table of items.

    Args:
        items: the table or a Parquet file of it: ITEM_ID and features under their names, as many as it likes.
        id_type: int64 or string.
        encoders: the items' encoders by feature.

    Raises:
        UserError: the file can't be read, a column is unknown, or ids are missing, repeated or of another type.
    """
    table = items if isinstance(items, pa.Table) else _read(Path(items))
    known = [ITEM_ID, *encoders]
    for name in table.column_names:
        if name not in known or table.column_names.count(name) > 1:
            what = "twice" if name in known else "that the bundle knows nothing of"
            hint = "" if name in known else nearest(name, known)
            raise UserError(f"the items have a column '{name}' {what}; expected {', '.join(known)}{hint}")
    if ITEM_ID not in table.column_names:
        raise UserError(f"the items have no column '{ITEM_ID}'; they have {', '.join(table.column_names)}")
    columns, numbers = {ITEM_ID: as_ids(table[ITEM_ID], id_type)}, {}
    for name in encoders.keys() & set(table.column_names):
        values = table[name].to_pylist()
        if encoders[name]["kind"] == "vector":
            numbers[name] = _numbers(name, encoders[name], values)
        else:
            raw = raw_values(encoders[name], values)
            if encoders[name]["kind"] == "numeric":
                _refuse_other_values(name, values, [value is None for value in raw], "numbers")
            columns[name] = pa.array(raw, raw_type(encoders[name]))
    return Given(pa.table(columns), numbers)


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} can't be read ({error}); expected a Parquet file of items") from None


def _numbers(name: str, encoder: Encoder, values: list[Any]) -> Floats:
    encoded = encode(encoder, values)
    assert isinstance(encoded, Dense)
    is_null = encoded.values[:, -1] == 1
    _refuse_other_values(name, values, is_null.tolist(), f"vectors of {encoder['size']} numbers")
    return encoded.values


def _refuse_other_values(name: str, values: list[Any], is_null: list[bool], expected: str) -> None:
    """What says something must not become null without a word."""
    for value, null in zip(values, is_null, strict=True):
        if null and not (value is None or value == "" or value != value):
            raise UserError(f"the items' column '{name}' has {value!r}; expected {expected}, or null")


def raw_type(encoder: Encoder) -> pa.DataType:
    """The type in which the bundle has a feature's values."""
    return TYPES.get(encoder["kind"], pa.string())


def as_ids(ids: pa.Array | pa.ChunkedArray, id_type: pa.DataType) -> pa.Array:
    """[n] different ids in the catalogue's type; raises UserError where they are not, or of another type."""
    column = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    fits = is_text if id_type == pa.string() else pa.types.is_integer(column.type)
    if len(column) and not fits:
        raise UserError(
            f"the items' ids are of type {column.type}, those of the bundle of type {id_type}; convert them"
        )
    if column.null_count:
        raise UserError(f"{column.null_count} of {len(column)} items have no {ITEM_ID}; expected one for each")
    column = column.cast(id_type)
    counts = column.value_counts()
    if len(counts) < len(column):
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"item {twice['values']!r} comes {twice['counts']} times; expected each item once")
    return column


def rows_of(ids: pa.Array, item_ids: pa.Array) -> Ints:
    """[n] the rows of ids among the bundle's [V], -1 where it does not have them."""
    found: Ints = pc.fill_null(pc.index_in(ids, value_set=item_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def merged(given: pa.Table, have: pa.Table, encoders: Mapping[str, Encoder]) -> pa.Table:
    """[n] the items' columns but LEARNT: what is given, else what they have [n]; an item's name is its first text."""
    columns = {name: given[name] if name in given.column_names else have[name] for name in have.column_names}
    columns = {name: column for name, column in columns.items() if name not in (ITEM_ID, *LEARNT)}
    texts = [name for name, encoder in encoders.items() if encoder["kind"] == "text" and name in columns]
    if ITEM_NAME in columns and texts:
        columns[ITEM_NAME] = columns[texts[0]]
    return pa.table({ITEM_ID: given[ITEM_ID], **columns})


def differing(given: pa.Table, have: pa.Table) -> npt.NDArray[np.bool_]:
    """[n] whether a value that is given is another one than an item has."""
    differs = np.zeros(len(have), dtype=bool)
    for name in set(given.column_names) - {ITEM_ID}:
        new, old = _comparable(given[name]), _comparable(have[name])
        both_null = pc.and_(pc.is_null(new), pc.is_null(old))
        same = pc.or_(pc.fill_null(pc.equal(new, old), False), both_null)
        differs |= ~same.to_numpy(zero_copy_only=False)
    return differs


def _comparable(column: pa.ChunkedArray) -> pa.Array:
    column = column.combine_chunks()
    return pc.binary_join(column, SEPARATOR) if pa.types.is_list(column.type) else column
