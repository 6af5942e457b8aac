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
from twotower.data.readers.chunks import delimited_file, delimited_frames, in_chunks, utc_time
from twotower.data.readers.files import count_about, published_files, readable
from twotower.data.readers.source import Prepare, Source

PAGE = "Kaggle: mkechinov/ecommerce-behavior-data-from-multi-category-store (or rees46.com/en/open-datasets)"
TIME = utc_time("event_time", "%Y-%m-%d %H:%M:%S UTC")
PRICE = pl.col("price").cast(pl.Float64, strict=False)
VALUES = ("category_code", "brand", "price")
COLUMNS = {
    SESSION_ID: pl.col("user_session"),
    USER_ID: pl.col("user_id").cast(pl.Int64, strict=False),
    ITEM_ID: pl.col("product_id").cast(pl.Int64, strict=False),
    TIMESTAMP: TIME,
    EVENT_TYPE: pl.col("event_type"),
    "category_code": pl.col("category_code"),
    "brand": pl.col("brand"),
    "price": PRICE,
}


def read(path: str, prepare: Prepare) -> Prepared:
    """Prepare REES46's events; category_code, brand and price are columns of the events and of the items.

    Args:
        path: a monthly file (2019-Oct.csv or .csv.gz), a folder or a glob of them.
        prepare: what takes the source.
    """
    files = published_files(path, PAGE)
    raw = [delimited_file(file, COLUMNS) for file in files]
    return prepare(
        Source(
            name="rees46",
            files=files,
            settings={"reader": "rees46"},
            columns=list(COLUMNS),
            rows=sum(count_about(file) for file in files),
            unit="auto",
            chunks=lambda wanted: in_chunks(raw, wanted),
            items=partial(_items, files),
        )
    )


def _items(files: Sequence[Path]) -> pl.LazyFrame:
    """What events said of the items, where it is not what the event before said; only these changes are held."""
    said: list[pl.DataFrame] = []
    for file in files:
        changes: list[pl.DataFrame] = []
        with readable(file):
            for frame in delimited_frames(file):
                rows = frame.select(COLUMNS[ITEM_ID].alias(ITEM_ID), TIME.dt.epoch("ms").alias(TIMESTAMP), *VALUES)
                changes = [_changes(pl.concat([*changes, _changes(rows.drop_nulls([ITEM_ID, TIMESTAMP]))]))]
        said += changes
    return _changes(pl.concat(said)).with_columns(PRICE).lazy()


def _changes(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.sort(ITEM_ID, TIMESTAMP, maintain_order=True)
    new = [pl.col(name).ne_missing(pl.col(name).shift()) for name in (ITEM_ID, *VALUES)]
    return rows.filter(pl.any_horizontal(new))
