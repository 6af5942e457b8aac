"""Diginetica, CIKM Cup 2016 track 2: item views and purchases (competitions.codalab.org/competitions/11161).

Semicolons, a line with names. train-item-views.csv: sessionId;userId;itemId;timeframe;eventdate (in some copies
session_id and so on); train-purchases.csv: sessionId;userId;timeframe;eventdate;ordernumber;itemId; timeframe is
milliseconds since the session began, eventdate its day. product-categories.csv: itemId;categoryId; products.csv:
itemId;pricelog2;product.name.tokens, with commas between the tokens.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID, Prepared
from twotower.data.readers.chunks import (
    csv_columns,
    delimited_file,
    integer,
    number,
    prepare_files,
    small_table,
    utc_time,
)
from twotower.data.readers.files import published_file, readable
from twotower.data.readers.source import Prepare

PAGE = "competitions.codalab.org/competitions/11161 (dataset-train-diginetica.zip)"
NAMES = {SESSION_ID: ("sessionId", "session_id"), USER_ID: ("userId", "user_id"), ITEM_ID: ("itemId", "item_id")}


def read(path: str, purchases: bool, items: bool, prepare: Prepare) -> Prepared:
    """Prepare Diginetica's raw logs: item views have the type view, purchases the type purchase.

    Items have a category, a price (2 ** pricelog2) and name_tokens (a list).

    Args:
        path: the folder with train-item-views.csv and, unless switched off, the other files.
        purchases: whether to read train-purchases.csv, too.
        items: whether to read product-categories.csv and products.csv.
        prepare: what the source is given to.
    """
    kinds = {"train-item-views.csv": "view"} | ({"train-purchases.csv": "purchase"} if purchases else {})
    files = {published_file(path, [name], PAGE): kind for name, kind in kinds.items()}
    tables = [published_file(path, [n], PAGE) for n in ("product-categories.csv", "products.csv")] if items else []
    raw = [delimited_file(file, _columns(file, kind), ";") for file, kind in files.items()]
    settings = {"reader": "diginetica", "purchases": purchases, "items": items}
    return prepare_files(prepare, raw, settings, tables=tables, items=partial(_items, *tables) if items else None)


def _columns(file: Path, kind: str) -> Mapping[str, pl.Expr]:
    with readable(file):
        present = csv_columns(file)
    columns = {}
    for name, choices in NAMES.items():
        column = next((choice for choice in choices if choice in present), None)
        if column is None:
            raise UserError(f"{file} has no column {' or '.join(choices)} (it has: {', '.join(present)}); see {PAGE}")
        columns[name] = integer(column)
    time = utc_time("eventdate", "%Y-%m-%d") + pl.duration(milliseconds=integer("timeframe"))
    return columns | {TIMESTAMP: time.cast(pl.Datetime("us", "UTC")), EVENT_TYPE: pl.lit(kind)}


def _items(categories: Path, products: Path) -> pl.LazyFrame:
    item = pl.col("itemId").alias(ITEM_ID)
    category = small_table(categories, ";").select(item, category="categoryId")
    tokens = pl.col("product.name.tokens").str.split(",")
    product = small_table(products, ";").select(item, price=2.0 ** number("pricelog2"), name_tokens=tokens)
    return product.join(category, on=ITEM_ID, how="full", coalesce=True).lazy()
