"""The text form of polars columns, value for value that of twotower.core.values."""

import re
from collections.abc import Collection
from functools import cache

import polars as pl

from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID
from twotower.core.values import EXACT, NULLS, SPACES, STEPS, WHOLE, WORDS, ZEROS, TextForm, text_of

HEALED = (ITEM_ID, USER_ID)
HEAL = {
    "strip": lambda text: text.str.strip_chars(SPACES),
    "case": lambda text: text.str.to_lowercase(),
    "zeros": lambda text: text.str.replace(ZEROS, "${1}"),
}


def texts(values: pl.Series, nulls: Collection[str] = NULLS) -> pl.Series:
    """Return `text_of` each value as String; a column of texts that are in this form already is not copied."""
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype.is_integer() or values.dtype == pl.Boolean:
        return values.cast(pl.String)
    if values.dtype != pl.String:
        return _texts_of_others(values, nulls)
    odd = values.str.contains(_odd(tuple(nulls)))
    if not odd.any():
        return values
    text = pl.col(values.name).str.replace(f"^{WHOLE}$", "${1}").replace(WORDS)
    is_null = pl.col(values.name).is_in(["", *nulls])
    return values.to_frame().select(pl.when(~is_null).then(text).alias(values.name)).to_series()


def ids(values: pl.Series, form: TextForm) -> pl.Series:
    """Return `form.id` of each value as String."""
    if values.dtype == pl.String and "strip" in form.ids:
        values = HEAL["strip"](values)
    whole_numbers = values.dtype.is_integer()
    values = texts(values, form.nulls or ())
    for step in STEPS[1:]:
        if step in form.ids and not whole_numbers:
            values = HEAL[step](values)
    return values


def in_text_form(events: pl.DataFrame, form: TextForm) -> pl.DataFrame:
    """Return events with their columns of texts in text form, and ids of items and users healed; times stay."""
    return events.with_columns(
        ids(column, form) if column.name in HEALED else texts(column, form.nulls or ())
        for column in events.get_columns()
        if column.dtype == pl.String and column.name != TIMESTAMP
    )


def shortest(values: pl.Series) -> pl.Series:
    """Return Float32 as the Float64 of the same shortest text, as a text file has it: 0.1 is 0.1."""
    return values.cast(pl.String).cast(pl.Float64) if values.dtype == pl.Float32 else values


@cache
def _odd(nulls: tuple[str, ...]) -> str:
    """A pattern of the texts that change."""
    return f"^(?:{WHOLE}|{'|'.join(map(re.escape, [*WORDS, *nulls]))})?$"


def _texts_of_others(values: pl.Series, nulls: Collection[str]) -> pl.Series:
    """Floats and further types: whole numbers as integers, of others the distinct values one by one."""
    text = pl.repeat(None, len(values), dtype=pl.String, eager=True).alias(values.name)
    if values.dtype.is_float():
        whole = values.is_finite() & (values.abs() < EXACT) & (values == values.round())
        text = values.set(~whole.fill_null(False), None).cast(pl.Int64).cast(pl.String)
        values = values.set(whole.fill_null(False), None)
    distinct = values.drop_nulls().unique()
    if len(distinct) == 0:
        return text
    given = list(distinct.to_numpy()) if distinct.dtype.is_float() else distinct.to_list()
    table = pl.DataFrame([distinct.alias("value"), pl.Series("text", [text_of(v, nulls) for v in given], pl.String)])
    others = values.alias("value").to_frame().join(table, on="value", how="left", maintain_order="left")["text"]
    return text.fill_null(others)
