"""Item features: from a table of items to codes and numbers by row of the catalogue.

Shapes: V items, T codes of all items together, W numbers an item.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest
from twotower.core.schema import ITEM_COLUMNS, ITEM_ID, ITEM_NAME, TIMESTAMP
from twotower.data.preparation.identifiers import item_id_key
from twotower.features import Bags, Encoder, check_spec, encode, fit, raw_values

KEY, ROW, VALUE, CONTENT = "__key", "__row", "__value", "__content"  # names that no table has
RAW_TYPES: dict[str, Any] = {"multi": pl.List(pl.String), "numeric": pl.Float64}  # others are texts
Specs = Mapping[str, Mapping[str, Any]]


class ItemFeatures(NamedTuple):
    """The encoded features of all items of the catalogue.

    >>> items = pl.LazyFrame({"item_id": [1, 2], "brand": ["A", "B"]})
    >>> specs = {"brand": {"kind": "categorical"}}
    >>> encode_items(items, specs, pl.DataFrame({"item_id": [2, 1, 5]}), before=None).raw["brand"].to_list()
    ['B', 'A', None]
    """

    encoders: dict[str, Encoder]
    arrays: dict[str, Array]  # those of schema.ITEM_FEATURES_FILE
    raw: pl.DataFrame  # [V] raw values (features.raw_values) of all but vectors; first ITEM_NAME, if a feature is text
    facts: dict[str, Any]  # items_without_features, and contradictory_items by feature


def check_specs(specs: Specs) -> None:
    """Raise UserError unless `specs` declares features of items, under names that are not reserved."""
    for name, spec in specs.items():
        if name in ITEM_COLUMNS:
            raise UserError(f"preparation.features.items.{name}: the name is taken; call it otherwise, with column:")
        check_spec(name, spec, single=False)


def encode_items(items: pl.LazyFrame, specs: Specs, catalogue: pl.DataFrame, before: int | None) -> ItemFeatures:
    """Fit the declared features on the items of the catalogue, and encode these.

    The value of an item is the newest one that is not null. Where several rows of the same time contradict each other,
    the smallest value is taken, so the order of rows never matters.

    Args:
        items: ITEM_ID, the features' columns and, if values change, TIMESTAMP (milliseconds): a row holds from then on.
        specs: declarations by feature, checked by check_specs.
        catalogue: [V] ITEM_ID by row.
        before: milliseconds; rows of that time or later are ignored. A row without a time was always valid.

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
        kind = spec["kind"]
        values, contradictory[name] = _values(rows, spec.get("column") or name, kind, catalogue.height)
        encoders[name] = fit(name, spec, values)
        encoded = encode(encoders[name], values)
        if isinstance(encoded, Bags):
            arrays |= {f"{name}.codes": encoded.codes, f"{name}.offsets": encoded.offsets}
        else:
            arrays[f"{name}.values"] = encoded.values
        if kind == "price":
            arrays[f"{name}.price"] = np.array(values, dtype=np.float32)  # None becomes NaN
        if kind != "vector":
            dtype = RAW_TYPES.get(encoders[name]["kind"], pl.String)
            raw[name] = pl.Series(name, raw_values(encoders[name], values), dtype=dtype)
        if kind == "text" and ITEM_NAME not in raw:
            raw = {ITEM_NAME: raw[name].alias(ITEM_NAME), **raw}
    without = catalogue.height - rows[ROW].n_unique()
    facts = {"items_without_features": without, "contradictory_items": contradictory}
    return ItemFeatures(encoders, arrays, pl.DataFrame(list(raw.values())), facts)


def _require_columns(columns: list[str], specs: Specs) -> None:
    needed = {f"preparation.features.items.{name}": spec.get("column") or name for name, spec in specs.items()}
    for place, column in {"every feature of items": ITEM_ID, **needed}.items():
        if column not in columns:
            raise UserError(
                f"{place} needs the column '{column}'; the items' table has {', '.join(columns)}"
                f"{nearest(column, columns)}"
            )


def _rows_of_catalogue(items: pl.LazyFrame, specs: Specs, catalogue: pl.DataFrame, before: int | None) -> pl.DataFrame:
    """Read the table's rows of items in the catalogue, with ROW and TIMESTAMP; other rows never come into memory."""
    key = item_id_key(catalogue[ITEM_ID]).alias(KEY)
    keys = catalogue.lazy().select(key, pl.int_range(pl.len()).alias(ROW))
    columns = {str(spec.get("column") or name) for name, spec in specs.items()} - {ITEM_ID, TIMESTAMP}
    has_time = TIMESTAMP in items.collect_schema().names()
    time = pl.col(TIMESTAMP).cast(pl.Int64).fill_null(np.iinfo(np.int64).min) if has_time else pl.lit(0)
    rows = items.with_columns(key, time.alias(TIMESTAMP)).join(keys, on=KEY)
    if before is not None and has_time:
        rows = rows.filter(pl.col(TIMESTAMP) < before)
    return rows.select(ROW, TIMESTAMP, ITEM_ID, *sorted(columns)).collect(engine="streaming")


def _values(rows: pl.DataFrame, column: str, kind: str, num_items: int) -> tuple[list[Any], int]:
    """Return [V] the value of each item, None where there is none, and how many items have several newest values."""
    newest = rows.select(ROW, TIMESTAMP, _plain(rows.schema[column], column, kind).alias(VALUE)).drop_nulls(VALUE)
    newest = newest.filter(pl.col(TIMESTAMP) == pl.col(TIMESTAMP).max().over(ROW))
    rows_of_item = pl.len().over(ROW)
    alone = newest.filter(rows_of_item == 1).select(ROW, VALUE)
    rivals = (
        newest.filter(rows_of_item > 1)
        .with_columns(_content(newest.schema[VALUE]).alias(CONTENT))
        .sort(ROW, CONTENT)
        .group_by(ROW, maintain_order=True)
        .agg(pl.col(VALUE).first(), several=pl.col(CONTENT).n_unique() > 1)
    )
    chosen = pl.concat([alone, rivals.select(ROW, VALUE)])
    by_row = pl.DataFrame({ROW: np.arange(num_items)}).join(chosen, on=ROW, how="left", maintain_order="left")[VALUE]
    # Arrays for vectors: a Python float for each of their numbers would take eight times the memory.
    return list(by_row.to_numpy()) if kind == "vector" else by_row.to_list(), int(rivals["several"].sum())


def _content(dtype: pl.DataType) -> pl.Expr:
    """Expression for comparing values: the value itself, or the text of a list."""
    value = pl.col(VALUE)
    if not isinstance(dtype, pl.List):
        return value
    return value.cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=False).fill_null("")


def _plain(dtype: pl.DataType, column: str, kind: str) -> pl.Expr:
    """Expression for a column with null for empty texts, empty lists and NaN; lists of kind multi are sorted."""
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
