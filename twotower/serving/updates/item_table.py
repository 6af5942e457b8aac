"""A table of new and changed items: read, checked, and compared with the items of the bundle.

Shapes: n items of the table, V items of the bundle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.arrays import Floats, Mask
from twotower.core.errors import UserError, nearest
from twotower.core.schema import AGE_DAYS, ITEM_ID, ITEM_NAME, TRAIN_COUNT
from twotower.core.values import TextForm
from twotower.features import Dense, Encoder, encode, raw_values
from twotower.serving.updates.columns import read_columns

TYPES = {"multi": pa.list_(pa.string()), "numeric": pa.float64()}  # of raw values by an encoder's kind; else texts
SEPARATOR = "\x1f"
FROM_EVENTS = (TRAIN_COUNT, AGE_DAYS)  # columns that come from training events; 0 for new items


class ItemTable(NamedTuple):
    """A checked table of n items."""

    columns: pa.Table  # [n] ITEM_ID in the catalogue's type, and raw values of the given features but vectors
    numbers: dict[str, Floats]  # [n, width] the encoded vectors, by feature

    ignored: tuple[str, ...] = ()  # columns that are no feature

    @property
    def ids(self) -> pa.Array:
        """[n]."""
        return self.columns[ITEM_ID].combine_chunks()


def read_item_table(
    items: pa.Table | str | Path,
    id_type: pa.DataType,
    encoders: Mapping[str, Encoder],
    form: TextForm,
    names: Mapping[str, str] | None = None,
) -> ItemTable:
    """Read and check a table of items.

    Args:
        items: the table or a file of it, as training reads them: ITEM_ID and any number of features.
        id_type: int64 or string.
        encoders: the items' encoders by feature.
        form: how texts are read.
        names: ITEM_ID or feature -> the table's name for it, where it is neither this nor the one in training.

    Raises:
        UserError: the file can't be read, a column is missing, values are of another kind, or ids are missing, repeated
            or no numbers where the bundle's are.
    """
    given = read_columns(items)
    column_of = _column_names(list(given), encoders, names or {})
    columns, numbers = {ITEM_ID: as_ids(given[column_of[ITEM_ID]], id_type, form)}, {}
    for name in encoders.keys() & column_of.keys():
        encoder, values = encoders[name], given[column_of[name]]
        if encoder["kind"] == "vector":
            encoded = encode(encoder, values)
            assert isinstance(encoded, Dense)
            became_null = (encoded.values[:, -1] == 1).tolist()
            by = f", which {encoder['encode_with']} makes" if "encode_with" in encoder else ""
            _require_null(name, values, became_null, f"vectors of {encoder['size']} numbers{by}", form)
            numbers[name] = encoded.values
        else:
            raw = raw_values(encoder, values)
            if encoder["kind"] != "multi":
                expected = "numbers" if encoder["kind"] == "numeric" else "texts"
                _require_null(name, values, [value is None for value in raw], expected, form)
            columns[name] = pa.array(raw, TYPES.get(encoder["kind"], pa.string()))
    return ItemTable(pa.table(columns), numbers, tuple(sorted(given.keys() - set(column_of.values()))))


def _column_names(present: list[str], encoders: Mapping[str, Encoder], names: Mapping[str, str]) -> dict[str, str]:
    """Return ITEM_ID or feature -> the table's name for it, for those that it has."""
    known = [ITEM_ID, *encoders]
    for name, column in names.items():
        for word, choices in ((name, known), (column, present)):
            if word not in choices:
                hint = nearest(word, choices)
                raise UserError(f"{name}={column}: expected one of {', '.join(choices)}, not '{word}'{hint}")
    found: dict[str, str] = {}
    for name in known:
        trained = str(encoders.get(name, {}).get("column", name))
        for column in [names[name]] if name in names else [trained, name]:
            if column in present:
                found[name] = column
    if ITEM_ID not in found:
        raise UserError(
            f"the items have no column '{ITEM_ID}'; they have {', '.join(present)}. Name the right one: {ITEM_ID}=NAME"
        )
    return found


def _require_null(name: str, values: list[Any], became_null: list[bool], expected: str, form: TextForm) -> None:
    """Refuse values that became null in encoding, though they were not null."""
    for value, is_null in zip(values, became_null, strict=True):
        null_text = isinstance(value, str) and form.text(value) is None
        if is_null and not (value is None or null_text or value != value):
            raise UserError(f"the items' column '{name}' has {value!r}; expected {expected}, or null")


def as_ids(ids: Sequence[Any], id_type: pa.DataType, form: TextForm) -> pa.Array:
    """Return [n] distinct ids in the catalogue's type; raises UserError for repeated, missing and other ones."""
    texts = [form.id(value) for value in ids]
    if missing := texts.count(None):
        raise UserError(f"{missing} of {len(texts)} items have no {ITEM_ID}; expected one for each")
    column = pa.array(texts, pa.string())
    if id_type != pa.string():
        try:
            column = column.cast(id_type)
        except pa.ArrowException:
            odd = next((text for text in texts if not str(text).lstrip("-").isdecimal()), texts[0])
            raise UserError(f"the ids of the bundle are whole numbers, {odd!r} is none; leave it out") from None
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
