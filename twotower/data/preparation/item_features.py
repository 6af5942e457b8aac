"""Item features: from a table of items to codes and numbers by row of the catalogue.

Shapes: V items, T codes of all items together, W numbers an item.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest
from twotower.core.matches import SAMPLE, Match
from twotower.core.schema import ITEM_COLUMNS, ITEM_ID, ITEM_NAME, TIMESTAMP
from twotower.core.values import TextForm
from twotower.data.text_form import ids, shortest, texts
from twotower.features import Bags, Encoder, check_spec, encode, fit, raw_values
from twotower.features.numbers import numbers_of
from twotower.features.own_vectors import vectors_by

KEY, ROW, VALUE, CONTENT = "__key", "__row", "__value", "__content"  # names that no table has
RAW_TYPES: dict[str, Any] = {"multi": pl.List(pl.String), "numeric": pl.Float64}  # others are texts
Specs = Mapping[str, Mapping[str, Any]]
TEXT_FORM = TextForm()
LATER = (
    "Their rows hold from a time after the training data only, by the table's timestamp. If that is the day of the "
    "export, ignore it: data.item_columns.timestamp=false"
)


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
    facts: dict[str, Any]  # items_without_features; contradictory_items and unreadable_numbers by feature; matches


def check_specs(specs: Specs) -> None:
    """Raise UserError unless `specs` declares features of items, under names that are not reserved."""
    for name, spec in specs.items():
        if name in ITEM_COLUMNS:
            raise UserError(f"preparation.features.items.{name}: the name is taken; call it otherwise, with column:")
        check_spec(name, spec, single=False)


def encode_items(
    items: pl.LazyFrame, specs: Specs, catalogue: pl.DataFrame, before: int | None, form: TextForm = TEXT_FORM
) -> ItemFeatures:
    """Fit the declared features on the items of the catalogue, and encode these.

    The value of an item is the newest one that is not null. Where several rows of the same time contradict each other,
    the smallest value is taken, so the order of rows never matters.

    Args:
        items: ITEM_ID, the features' columns and, if values change, TIMESTAMP (milliseconds): a row holds from then on.
        specs: declarations by feature, checked by check_specs.
        catalogue: [V] ITEM_ID by row.
        before: milliseconds; rows of that time or later are ignored. A row without a time was always valid.
        form: how texts are read.

    Raises:
        UserError: a column is missing, its values don't fit their kind, or no item of the catalogue has a row.
    """
    _require_columns(items.collect_schema().names(), specs)
    rows, match = _rows_of_catalogue(items, specs, catalogue, before, form)
    encoders: dict[str, Encoder] = {}
    arrays: dict[str, Array] = {}
    raw: dict[str, pl.Series] = {}
    contradictory, unreadable = {}, {}
    for name, spec in specs.items():
        kind = spec["kind"]
        column, bad = _typed(rows[spec.get("column") or name], spec, form)
        if len(bad):
            given = len(column) - column.null_count() + len(bad)
            unreadable[name] = {"values": len(bad), "of": given, "first": bad.min()}  # the rows have no fixed order
        values, contradictory[name] = _values(rows.select(ROW, TIMESTAMP, column.alias(VALUE)), kind, catalogue.height)
        if spec.get("encode_with"):
            values = vectors_by(spec["encode_with"], f"preparation.features.items.{name}", values)
        encoders[name] = fit(name, spec, values, nulls=form.nulls or ())
        if spec.get("column") not in (None, name) and not spec.get("encode_with"):  # updates bring vectors by name
            encoders[name]["column"] = spec["column"]  # by which updates find the values
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
    facts = {
        "items_without_features": catalogue.height - rows[ROW].n_unique(),
        "contradictory_items": contradictory,
        "unreadable_numbers": unreadable,
        "matches": [match] if specs else [],
    }
    return ItemFeatures(encoders, arrays, pl.DataFrame(list(raw.values())), facts)


def listed_items(table: pl.LazyFrame, values: pl.Series, form: TextForm) -> Array:
    """Return [K + 1] whether a table of items has a row of each item id [K], from place 1 on; True for place 0."""
    in_form = partial(ids, form=form)
    key = pl.col(ITEM_ID).map_batches(in_form, return_dtype=pl.String, is_elementwise=True).alias(KEY)
    wanted = in_form(values).alias(KEY)
    found = table.select(key).join(wanted.to_frame().lazy(), on=KEY, how="semi").unique().collect(engine="streaming")
    return np.concatenate([[True], wanted.is_in(found[KEY].implode()).to_numpy()])


def _require_columns(columns: list[str], specs: Specs) -> None:
    needed = {f"preparation.features.items.{name}": spec.get("column") or name for name, spec in specs.items()}
    for place, column in {"every feature of items": ITEM_ID, **needed}.items():
        if column not in columns:
            raise UserError(
                f"{place} needs the column '{column}'; the items' table has {', '.join(columns)}"
                f"{nearest(column, columns)}"
            )


def _rows_of_catalogue(
    items: pl.LazyFrame, specs: Specs, catalogue: pl.DataFrame, before: int | None, form: TextForm
) -> tuple[pl.DataFrame, Match]:
    """Read the table's rows of items in the catalogue, with ROW and TIMESTAMP; other rows never come into memory."""
    in_form = partial(ids, form=form)
    key = pl.col(ITEM_ID).map_batches(in_form, return_dtype=pl.String, is_elementwise=True).alias(KEY)
    keys = pl.DataFrame([in_form(catalogue[ITEM_ID]).alias(KEY), pl.Series(ROW, range(catalogue.height), pl.Int64)])
    columns = {str(spec.get("column") or name) for name, spec in specs.items()} - {ITEM_ID, TIMESTAMP}
    has_time = TIMESTAMP in items.collect_schema().names()
    time = pl.col(TIMESTAMP).cast(pl.Int64).fill_null(np.iinfo(np.int64).min) if has_time else pl.lit(0)
    present = items.with_columns(key, time.alias(TIMESTAMP)).join(keys.lazy(), on=KEY)
    valid = present if before is None or not has_time else present.filter(pl.col(TIMESTAMP) < before)
    rows = valid.select(ROW, TIMESTAMP, ITEM_ID, *sorted(columns)).collect(engine="streaming")
    matched = rows[ROW].n_unique()
    match = Match("data.items", "items of the catalogue", matched, catalogue.height)
    if specs and match.is_low:
        without = keys.filter(~pl.col(ROW).is_in(rows[ROW].implode()))[KEY].head(SAMPLE).to_list()
        others = items.select(key).drop_nulls().head(SAMPLE).collect()[KEY].to_list()
        match = match._replace(unmatched=without, others=others)
        later = present.select(pl.col(ROW).n_unique()).collect().item() - matched
        if later > len(without) / 2:
            match = match._replace(unmatched=(), others=(), remedy=LATER)
        match.require()
    return rows, match


def _typed(column: pl.Series, spec: Mapping[str, Any], form: TextForm) -> tuple[pl.Series, pl.Series]:
    """Return [rows] a column's values as its kind has them, and those that are no numbers, though they should be.

    Null words, empty lists and NaN are null; categories are texts; lists of kind multi are sorted.
    """
    kind, none = spec["kind"], pl.Series([], dtype=pl.String)
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        filled = column.set(column.list.len() == 0, None) if len(column) else column
        return (filled.list.sort() if kind == "multi" else filled), none
    if kind not in ("numeric", "price"):
        return texts(column, form.nulls or ()), none
    if column.dtype.is_float():
        return shortest(column.set(~column.is_finite().fill_null(False), None)), none
    if column.dtype.is_integer():
        return column, none
    text = texts(column, form.nulls or ())
    numbers = pl.Series(column.name, numbers_of(text.to_list(), spec.get("decimal") or "."), nan_to_null=True)
    if numbers.null_count() == len(numbers):
        return text, none  # `fit` tells what to do
    return numbers, text.filter(numbers.is_null() & text.is_not_null())


def _values(rows: pl.DataFrame, kind: str, num_items: int) -> tuple[list[Any], int]:
    """Return [V] the value of each item, None where there is none, and how many items have several newest values."""
    newest = rows.drop_nulls(VALUE)
    newest = newest.filter(pl.col(TIMESTAMP) == pl.col(TIMESTAMP).max().over(ROW))
    rows_of_item = pl.len().over(ROW)
    alone = newest.filter(rows_of_item == 1).select(ROW, VALUE)
    rivals = (
        newest.filter(rows_of_item > 1)
        .with_columns(_content(newest.schema[VALUE]).alias(CONTENT))
        .sort(ROW, *smallest_first(CONTENT, newest.schema[VALUE]), nulls_last=True)
        .group_by(ROW, maintain_order=True)
        .agg(pl.col(VALUE).first(), several=pl.col(CONTENT).n_unique() > 1)
    )
    chosen = pl.concat([alone, rivals.select(ROW, VALUE)])
    by_row = pl.DataFrame({ROW: np.arange(num_items)}).join(chosen, on=ROW, how="left", maintain_order="left")[VALUE]
    # Arrays for vectors: a Python float for each of their numbers would take eight times the memory.
    return list(by_row.to_numpy()) if kind == "vector" else by_row.to_list(), int(rivals["several"].sum())


def smallest_first(column: str, dtype: pl.DataType) -> list[pl.Expr]:
    """Keys to sort by: numbers, also those that are texts, then other texts."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    return [number, pl.col(column)] if dtype == pl.String else [pl.col(column)]


def _content(dtype: pl.DataType) -> pl.Expr:
    """Expression for comparing values: the value itself, or the text of a list."""
    value = pl.col(VALUE)
    if not isinstance(dtype, pl.List):
        return value
    return value.cast(pl.List(pl.String)).list.join("\x1f", ignore_nulls=False).fill_null("")
