"""Item features: from a table of items to codes and numbers by catalogue row.

Shapes: V items, T codes of all items together, W numbers an item.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError, nearest
from twotower.core.schema import ITEM_COLUMNS, ITEM_ID, ITEM_NAME, TIMESTAMP
from twotower.features import Bags, Encoder, check_spec, encode, fit, raw_values

Array = npt.NDArray[Any]
KEY, ROW, VALUE, CONTENT = "__key", "__row", "__value", "__content"  # names that no table has
WHOLE = r"^[+-]?[0-9]+(\.0+)?$"
RAW_TYPES: dict[str, Any] = {"multi": pl.List(pl.String), "numeric": pl.Float64}  # all others are texts


def check_specs(specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError unless `specs` declares features of items that can be built, under names that are free."""
    for name, spec in specs.items():
        if name in ITEM_COLUMNS:
            raise UserError(f"preparation.features.items.{name}: the name is taken; call it otherwise, with column:")
        check_spec(name, spec, single=False)


def encode_items(
    items: pl.LazyFrame, specs: Mapping[str, Mapping[str, Any]], catalogue: pl.DataFrame, before: int | None
) -> tuple[dict[str, Encoder], dict[str, Array], pl.DataFrame, dict[str, Any]]:
    """Fit the declared features on the catalogue's items, and encode those.

    An item's value is the newest that is not null: a row says nothing about what it leaves out. Where several rows of
    one time contradict each other, the smallest value is taken, so the order of rows never matters.

    Args:
        items: ITEM_ID, the features' columns and, if values change, TIMESTAMP (milliseconds): a row holds from then on.
        specs: declarations by feature, checked by check_specs.
        catalogue: [V] ITEM_ID by row.
        before: milliseconds; rows from then on are not looked at. A row without a time was always there.

    Returns:
        The encoders; the arrays of schema.ITEM_FEATURES_FILE, "name.codes" [T] and "name.offsets" [V + 1] of bags,
        "name.values" [V, W] of numbers, "name.price" [V] of prices as they are, NaN where there is none; [V] the
        values as they are (see features.raw_values), a column for each feature but vectors, after ITEM_NAME, which is
        the first feature of kind text, if there is one; and
        {"items_without_features": how many items have no row,
         "contradictory_items": {feature: how many items have contradictory values}}.

    Raises:
        UserError: a column is missing, or its values don't fit their kind.
    """
    _require_columns(items.collect_schema().names(), specs)
    rows = _rows_of_catalogue(items, specs, catalogue, before)
    encoders: dict[str, Encoder] = {}
    arrays: dict[str, Array] = {}
    raw: dict[str, pl.Series] = {}
    contradictory = {}
    for name, spec in specs.items():
        values, contradictory[name] = _values(rows, spec.get("column") or name, spec["kind"], catalogue.height)
        encoders[name] = fit(name, spec, values)
        encoded = encode(encoders[name], values)
        if isinstance(encoded, Bags):
            arrays |= {f"{name}.codes": encoded.codes, f"{name}.offsets": encoded.offsets}
        else:
            arrays[f"{name}.values"] = encoded.values
        if spec["kind"] == "price":
            arrays[f"{name}.price"] = np.array(values, dtype=np.float32)  # None becomes NaN
        if spec["kind"] != "vector":
            dtype = RAW_TYPES.get(encoders[name]["kind"], pl.String)
            raw[name] = pl.Series(name, raw_values(encoders[name], values), dtype=dtype)
        if spec["kind"] == "text" and ITEM_NAME not in raw:
            raw = {ITEM_NAME: raw[name].alias(ITEM_NAME), **raw}
    facts = {
        "items_without_features": catalogue.height - rows[ROW].n_unique(),
        "contradictory_items": contradictory,
    }
    return encoders, arrays, pl.DataFrame(list(raw.values())), facts


def _require_columns(columns: list[str], specs: Mapping[str, Mapping[str, Any]]) -> None:
    needed = {f"preparation.features.items.{name}": spec.get("column") or name for name, spec in specs.items()}
    for place, column in {"every feature of items": ITEM_ID, **needed}.items():
        if column not in columns:
            raise UserError(
                f"{place} needs the column '{column}'; the items' table has {', '.join(columns)}"
                f"{nearest(column, columns)}"
            )


def _rows_of_catalogue(
    items: pl.LazyFrame, specs: Mapping[str, Mapping[str, Any]], catalogue: pl.DataFrame, before: int | None
) -> pl.DataFrame:
    """The table's rows of items in the catalogue, with ROW and TIMESTAMP; only these come into memory."""
    ids = catalogue[ITEM_ID].cast(pl.String)
    are_whole = bool(ids.str.contains(WHOLE).all())
    keys = catalogue.lazy().select(_key(are_whole).alias(KEY), pl.int_range(pl.len()).alias(ROW))
    columns = sorted({str(spec.get("column") or name) for name, spec in specs.items()} - {ITEM_ID})
    has_time = TIMESTAMP in items.collect_schema().names()
    time = pl.col(TIMESTAMP).cast(pl.Int64).fill_null(np.iinfo(np.int64).min) if has_time else pl.lit(0)
    found = items.with_columns(_key(are_whole).alias(KEY), time.alias(TIMESTAMP)).join(keys, on=KEY)
    if before is not None and has_time:
        found = found.filter(pl.col(TIMESTAMP) < before)
    return found.select(ROW, TIMESTAMP, ITEM_ID, *(c for c in columns if c != TIMESTAMP)).collect(engine="streaming")


def _key(are_whole: bool) -> pl.Expr:
    """Item ids as text; 12, 12.0 and "12.0" are one id where the catalogue's ids are all whole numbers."""
    text = pl.col(ITEM_ID).cast(pl.String)
    if not are_whole:
        return text
    return pl.when(text.str.contains(WHOLE)).then(text.str.replace(r"\.0+$", "")).otherwise(text)


def _values(rows: pl.DataFrame, column: str, kind: str, num_items: int) -> tuple[list[Any], int]:
    """[V] each item's value, None where there is none, and how many items have several at the time that counts."""
    said = rows.select(ROW, TIMESTAMP, _plain(rows.schema[column], column, kind).alias(VALUE)).drop_nulls(VALUE)
    said = said.filter(pl.col(TIMESTAMP) == pl.col(TIMESTAMP).max().over(ROW))
    rows_of_item = pl.len().over(ROW)
    alone = said.filter(rows_of_item == 1).select(ROW, VALUE)
    rivals = (
        said.filter(rows_of_item > 1)
        .with_columns(_content(said.schema[VALUE]).alias(CONTENT))
        .sort(ROW, CONTENT)
        .group_by(ROW, maintain_order=True)
        .agg(pl.col(VALUE).first(), several=pl.col(CONTENT).n_unique() > 1)
    )
    chosen = pl.concat([alone, rivals.select(ROW, VALUE)])
    by_row = pl.DataFrame({ROW: np.arange(num_items)}).join(chosen, on=ROW, how="left", maintain_order="left")[VALUE]
    # Arrays of the vectors themselves: a Python float for each of their numbers would take eight times the memory.
    return list(by_row.to_numpy()) if kind == "vector" else by_row.to_list(), int(rivals["several"].sum())


def _content(dtype: pl.DataType) -> pl.Expr:
    """What tells whether two values are the same, and which is the smaller: of a list its text."""
    value = pl.col(VALUE)
    if not isinstance(dtype, pl.List):
        return value
    return value.cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=False).fill_null("")


def _plain(dtype: pl.DataType, column: str, kind: str) -> pl.Expr:
    """A column with null for all that says nothing: empty text, empty lists, no number. Of multi the order is none."""
    value = pl.col(column)
    if dtype in (pl.Categorical, pl.Enum, pl.String):
        value = value.cast(pl.String)
        return pl.when(value != "").then(value)
    if dtype.is_float():
        return pl.when(value.is_finite()).then(value)
    if isinstance(dtype, pl.Array):
        value = value.arr.to_list()
    if isinstance(dtype, pl.Array | pl.List):
        return pl.when(value.list.len() > 0).then(value.list.sort() if kind == "multi" else value)
    return value
