"""A table of new and changed items: read, checked, and compared with the items of the bundle.

Shapes: n items of the table, V items of the bundle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.core.arrays import Floats, Mask
from twotower.core.errors import UserError, nearest
from twotower.core.schema import AGE_DAYS, ITEM_ID, ITEM_NAME, TRAIN_COUNT
from twotower.features import Dense, Encoder, encode, raw_values

TYPES = {"multi": pa.list_(pa.string()), "numeric": pa.float64()}  # of raw values by an encoder's kind; else texts
SEPARATOR = "\x1f"
FROM_EVENTS = (TRAIN_COUNT, AGE_DAYS)  # columns that come from training events; 0 for new items


class ItemTable(NamedTuple):
    """A checked table of n items."""

    columns: pa.Table  # [n] ITEM_ID in the catalogue's type, and raw values of the given features but vectors
    numbers: dict[str, Floats]  # [n, width] the encoded vectors, by feature

    @property
    def ids(self) -> pa.Array:
        """[n]."""
        return self.columns[ITEM_ID].combine_chunks()


def read_item_table(items: pa.Table | str | Path, id_type: pa.DataType, encoders: Mapping[str, Encoder]) -> ItemTable:
    """Read and check a table of items.

    Args:
        items: the table or a Parquet file of it: ITEM_ID and any number of features, by their names.
        id_type: int64 or string.
        encoders: the items' encoders by feature.

    Raises:
        UserError: the file can't be read, a column is unknown, or ids are missing, repeated or of another type.
    """
    table = items if isinstance(items, pa.Table) else _read(Path(items))
    known = [ITEM_ID, *encoders]
    for name in table.column_names:
        if name not in known or table.column_names.count(name) > 1:
            what = "twice" if name in known else "that the bundle does not know"
            hint = "" if name in known else nearest(name, known)
            raise UserError(f"the items have a column '{name}' {what}; expected {', '.join(known)}{hint}")
    if ITEM_ID not in table.column_names:
        raise UserError(f"the items have no column '{ITEM_ID}'; they have {', '.join(table.column_names)}")
    columns, numbers = {ITEM_ID: as_ids(table[ITEM_ID], id_type)}, {}
    for name in encoders.keys() & set(table.column_names):
        encoder, values = encoders[name], table[name].to_pylist()
        if encoder["kind"] == "vector":
            encoded = encode(encoder, values)
            assert isinstance(encoded, Dense)
            _require_null(name, values, (encoded.values[:, -1] == 1).tolist(), f"vectors of {encoder['size']} numbers")
            numbers[name] = encoded.values
        else:
            raw = raw_values(encoder, values)
            if encoder["kind"] == "numeric":
                _require_null(name, values, [value is None for value in raw], "numbers")
            columns[name] = pa.array(raw, TYPES.get(encoder["kind"], pa.string()))
    return ItemTable(pa.table(columns), numbers)


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} can't be read ({error}); expected a Parquet file of items") from None


def _require_null(name: str, values: list[Any], became_null: list[bool], expected: str) -> None:
    """Refuse values that became null in encoding, though they were not null."""
    for value, is_null in zip(values, became_null, strict=True):
        if is_null and not (value is None or value == "" or value != value):
            raise UserError(f"the items' column '{name}' has {value!r}; expected {expected}, or null")


def as_ids(ids: pa.Array | pa.ChunkedArray, id_type: pa.DataType) -> pa.Array:
    """Return [n] distinct ids in the catalogue's type; raises UserError for repeated, missing or other ids."""
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
        repeated = counts.filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise UserError(f"item {repeated['values']!r} occurs {repeated['counts']} times; expected each item once")
    return column


def merged(given: pa.Table, current: pa.Table, encoders: Mapping[str, Encoder], is_new: Mask) -> pa.Table:
    """Return [n] the items' rows of items.parquet: the given values, else the current ones.

    Args:
        given: [n] ItemTable.columns.
        current: [n] the items' rows before, null for new ones; item_name is their first text.
        encoders: the items' encoders by feature.
        is_new: [n].
    """
    columns = {name: given[name] if name in given.column_names else current[name] for name in current.column_names}
    texts = [name for name, encoder in encoders.items() if encoder["kind"] == "text" and name in columns]
    if ITEM_NAME in columns and texts:
        columns[ITEM_NAME] = columns[texts[0]]
    return pa.table(columns | {name: pc.if_else(pa.array(is_new), 0, current[name]) for name in FROM_EVENTS})


def differing(given: pa.Table, current: pa.Table) -> Mask:
    """Return [n] whether a given value differs from the item's current one."""
    differs = np.zeros(len(current), dtype=bool)
    for name in set(given.column_names) - {ITEM_ID}:
        new, old = _comparable(given[name]), _comparable(current[name])
        both_null = pc.and_(pc.is_null(new), pc.is_null(old))
        same = pc.or_(pc.fill_null(pc.equal(new, old), False), both_null)
        differs |= ~same.to_numpy(zero_copy_only=False)
    return differs


def _comparable(column: pa.ChunkedArray) -> pa.Array:
    column = column.combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return pc.binary_join(column.cast(pa.list_(pa.string())), SEPARATOR) if is_list else column
