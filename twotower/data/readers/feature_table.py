"""Tables of item or user features beside the events: Parquet, CSV or JSON Lines; one file, a folder or a glob."""

import glob
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError, nearest
from twotower.core.schema import ITEM_ID, ORDINAL, TIMESTAMP
from twotower.core.table_files import CSV, PARQUET, file_format
from twotower.data.readers.chunks import csv_separator
from twotower.data.readers.files import find_files, readable
from twotower.data.timestamps import choose_unit, count_units, whole_timestamps

SETTINGS = {"item_id": "data.items", "user_id": "data.users"}


def feature_table(
    path: str, identifier: str, names: Mapping[str, str | bool | None], unit: str
) -> tuple[list[Path], Callable[[], pl.LazyFrame]]:
    """Open a table with a column of ids, columns of features, and optionally the time from which a row holds.

    Args:
        path: a file, a folder or a glob.
        identifier: ITEM_ID or USER_ID: the name of the id column, unless the table uses the events' name for it.
        names: schema name -> the name that ids and time may have here, too; false for the time: there is none.
        unit: what numeric timestamps count, or auto.

    Returns:
        The files, and the table with the id under the schema's name and TIMESTAMP in milliseconds (or ordinals).

    Raises:
        UserError: no such file, an unreadable one, or one without ids.
    """
    files = find_files(path, SETTINGS[identifier])
    whole = pl.concat([_open(file, identifier, names) for file in files], how="diagonal_relaxed")
    with readable(files[0]):
        timed = TIMESTAMP in whole.collect_schema()
    milliseconds = pl.col(TIMESTAMP).map_batches(partial(_milliseconds, unit=unit), return_dtype=pl.Int64)
    return files, lambda: whole.with_columns(milliseconds) if timed else whole


def _open(file: Path, identifier: str, names: Mapping[str, str | bool | None]) -> pl.LazyFrame:
    """Scan one file; ids and time get the schema's names."""
    with readable(file):
        table = scan_table(file)
        present = table.collect_schema().names()
    if names.get(TIMESTAMP) is False:
        table, present = table.drop(TIMESTAMP, strict=False), [name for name in present if name != TIMESTAMP]
    columns = {
        name: next((n for n in (names.get(name), name) if n in present), None) for name in (identifier, TIMESTAMP)
    }
    if columns[identifier] is None:
        mapping = ", or data.item_columns.item_id=NAME" if identifier == ITEM_ID else ""
        wanted = str(names.get(identifier) or identifier)
        raise UserError(
            f"{file} has no column '{wanted}' (it has: {', '.join(present)}){nearest(wanted, present) or '.'} "
            f"{SETTINGS[identifier]} needs the ids under '{identifier}', or under the events' name for them{mapping}"
        )
    renamed = {column: name for name, column in columns.items() if column and column != name}
    return table.drop([name for name in renamed.values() if name in present]).rename(renamed)


def scan_table(file: Path) -> pl.LazyFrame:
    """Scan a Parquet, CSV or JSON Lines file; all columns of CSV are text."""
    path, kind = glob.escape(str(file)), file_format(file)
    if kind == PARQUET:
        return pl.scan_parquet(path, hive_partitioning=False)
    if kind == CSV:
        return pl.scan_csv(path, separator=csv_separator(file), infer_schema=False)
    return pl.scan_ndjson(path, infer_schema_length=None)


def _milliseconds(column: pl.Series, unit: str) -> pl.Series:
    unit = choose_unit(count_units(column), unit)
    whole = whole_timestamps(column, unit)
    return whole if unit == ORDINAL else whole // 1000
