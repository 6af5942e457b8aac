"""Receipts of a till: lines "2026-01-31 12:00:00|receipt|item", without a line of names."""

from pathlib import Path

import polars as pl

from twotower.core.schema import ITEM_ID, SESSION_ID, TIMESTAMP, Prepared
from twotower.data.readers.chunks import delimited_file, in_chunks, utc_time
from twotower.data.readers.files import count_about
from twotower.data.readers.source import Prepare, Source

NAMES = ["time", "receipt", "item"]
COLUMNS = {
    TIMESTAMP: utc_time("time", "%Y-%m-%d %H:%M:%S"),
    SESSION_ID: pl.col("receipt"),
    ITEM_ID: pl.col("item"),
}


def read_receipts(path: str, prepare: Prepare) -> Prepared:
    """Prepare the events of one file of receipts."""
    file = Path(path)
    raw = delimited_file(file, COLUMNS, separator="|", names=NAMES)
    return prepare(
        Source(
            name=file.stem,
            files=[file],
            settings={"reader": "my_shop.receipts"},
            columns=list(COLUMNS),
            rows=count_about(file),
            unit="auto",
            chunks=lambda wanted: in_chunks([raw], wanted),
        )
    )
