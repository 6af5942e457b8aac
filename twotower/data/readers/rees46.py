"""REES46: monthly logs of a multi-category shop (Kaggle: mkechinov/ecommerce-behavior-data-from-multi-category-store).

CSV (.gz) with a line of names: event_time "2019-10-01 00:00:00 UTC", event_type (view, cart, remove_from_cart,
purchase), product_id, category_id, category_code "electronics.smartphone", brand, price, user_id, user_session. The
same form has a cosmetics shop's (Kaggle: mkechinov/ecommerce-events-history-in-cosmetics-shop).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID, Prepared
from twotower.data.readers.chunks import delimited_file, delimited_frames, integer, number, prepare_files, utc_time
from twotower.data.readers.files import published_files, readable
from twotower.data.readers.source import Prepare

PAGE = "Kaggle: mkechinov/ecommerce-behavior-data-from-multi-category-store (or rees46.com/en/open-datasets)"
TIME = utc_time("event_time", "%Y-%m-%d %H:%M:%S UTC")
VALUES = ("category_code", "brand", "price")
COLUMNS = {
    SESSION_ID: pl.col("user_session"),
    USER_ID: integer("user_id"),
    ITEM_ID: integer("product_id"),
    TIMESTAMP: TIME,
    EVENT_TYPE: pl.col("event_type"),
    "category_code": pl.col("category_code"),
    "brand": pl.col("brand"),
    "price": number("price"),
}


def read(path: str, prepare: Prepare) -> Prepared:
    """Prepare REES46's events; category_code, brand and price are columns of the events and of the items.

    Args:
        path: a monthly file (2019-Oct.csv or .csv.gz), a folder or a glob of them.
        prepare: what the source is given to.
    """
    files = published_files(path, PAGE)
    raw = [delimited_file(file, COLUMNS) for file in files]
    return prepare_files(prepare, raw, {"reader": "rees46"}, items=partial(_items, files))


def _items(files: Sequence[Path]) -> pl.LazyFrame:
    """Return the values of each item from the events at which they changed; only these are held in memory."""
    all_changes: list[pl.DataFrame] = []
    for file in files:
        changes: list[pl.DataFrame] = []
        with readable(file):
            for frame in delimited_frames(file):
                rows = frame.select(COLUMNS[ITEM_ID].alias(ITEM_ID), TIME.dt.epoch("ms").alias(TIMESTAMP), *VALUES)
                changes = [_changes(pl.concat([*changes, _changes(rows.drop_nulls([ITEM_ID, TIMESTAMP]))]))]
        all_changes += changes
    return _changes(pl.concat(all_changes)).with_columns(number("price")).lazy()


def _changes(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.sort(ITEM_ID, TIMESTAMP, maintain_order=True)
    new = [pl.col(name).ne_missing(pl.col(name).shift()) for name in (ITEM_ID, *VALUES)]
    return rows.filter(pl.any_horizontal(new))
