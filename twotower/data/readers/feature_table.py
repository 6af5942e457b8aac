"""Tables of item or user features beside the events: Parquet, CSV or JSON Lines; one file, a folder or a glob."""

import glob
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError, nearest
from twotower.core.schema import ORDINAL, TIMESTAMP
from twotower.data.preparation.timestamps import choose_unit, count_units, whole_timestamps
from twotower.data.readers.chunks import csv_separator
from twotower.data.readers.files import CSV, PARQUET, file_format, find_files, readable

SETTINGS = {"item_id": "data.items", "user_id": "data.users"}


def feature_table(
    path: str, identifier: str, names: Mapping[str, str | None], unit: str
) -> tuple[list[Path], Callable[[], pl.LazyFrame]]:
    """A table with a column of ids, columns of features, and optionally the time from which a row holds.

    Args:
        path: a file, a folder or a glob.
        identifier: ITEM_ID or USER_ID: the id column's name, unless the table uses the events' name for it.
        names: schema name -> the events' name for it; the ids and the time may be called so here, too.
        unit: what numeric timestamps count, or auto.

    Returns:
        The files, and the table with the id under the schema's name and TIMESTAMP in milliseconds (or ordinals).

    Raises:
        UserError: no such file, an unreadable one, or one without ids.
    """
    files = find_files(path, SETTINGS[identifier])
    tables = []
    for file in files:
        with readable(file):
            table = scan_table(file)
            present = table.collect_schema().names()
        columns = {name: _own(name, names, present) for name in (identifier, TIMESTAMP)}
        own = columns[identifier]
        if own is None:
            wanted = names.get(identifier) or identifier
            raise UserError(
                f"{file} has no column '{wanted}' (it has: {', '.join(present)}){nearest(wanted, present) or '.'} "
                f"{SETTINGS[identifier]} needs the ids under '{identifier}', or under the events' name for them"
            )
        renamed = {source: name for name, source in columns.items() if source and source != name}
        tables.append(table.drop([name for name in renamed.values() if name in present]).rename(renamed))
    whole = pl.concat(tables, how="diagonal_relaxed")
    with readable(files[0]):
        timed = TIMESTAMP in whole.collect_schema()
    since = pl.col(TIMESTAMP).map_batches(partial(_milliseconds, unit=unit), return_dtype=pl.Int64)
    return files, lambda: whole.with_columns(since) if timed else whole


def _own(name: str, names: Mapping[str, str | None], present: list[str]) -> str | None:
    return next((n for n in (names.get(name), name) if n in present), None)


def scan_table(file: Path) -> pl.LazyFrame:
    path, kind = glob.escape(str(file)), file_format(file)
    if kind == PARQUET:
        return pl.scan_parquet(path, hive_partitioning=False)
    if kind == CSV:
        return pl.scan_csv(path, separator=csv_separator(file), infer_schema=False)
    return pl.scan_ndjson(path, infer_schema_length=None)


def _milliseconds(column: pl.Series, unit: str) -> pl.Series:
    chosen = choose_unit(count_units(column), unit)
    whole = whole_timestamps(column, chosen)
    return whole if chosen == ORDINAL else whole // 1000
