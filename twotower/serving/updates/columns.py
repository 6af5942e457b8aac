"""The columns of a table of items as plain values, from a pyarrow table or a file in a format of training."""

import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.table_files import CSV, EXPECTED, FORMATS, JSON_LINES, file_format, open_bytes, separator_of

Columns = dict[str, list[Any]]


def read_columns(items: pa.Table | str | Path) -> Columns:
    """Return the values of each column; all values of CSV are texts.

    Raises:
        UserError: a file that can't be read, of another format, or with a column twice.
    """
    if isinstance(items, pa.Table):
        return _of_table(items)
    file = Path(items)
    kind = file_format(file)
    if kind is None:
        raise UserError(f"{file} is no table by its name; expected one that ends in {', '.join(FORMATS)}")
    try:
        if kind == CSV:
            return _of_csv(_text(file))
        return _of_json(_text(file)) if kind == JSON_LINES else _of_table(pq.read_table(file))
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{file} can't be read as {kind} ({error}); expected {EXPECTED[kind]}") from None


def _text(file: Path) -> str:
    with open_bytes(file) as raw:
        return raw.read().decode("utf-8-sig")


def _of_table(table: pa.Table) -> Columns:
    _require_once(table.column_names)
    return {name: _values(table[name]) for name in table.column_names}


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_float32(column.type):  # the number of the same shortest text, as in a text file: 0.1 is 0.1
        column = column.cast(pa.string()).cast(pa.float64())
    return list(column.to_pylist())


def _of_csv(text: str) -> Columns:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text.split("\n", 1)[0]), strict=True)
    names = next(rows, [])
    _require_once(names)
    lines = [row for row in rows if row]
    for number, row in enumerate(lines, 2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} fields, the first line {len(names)}")
    return {name: [row[place] for row in lines] for place, name in enumerate(names)}


def _of_json(text: str) -> Columns:
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _require_once(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the items have a column '{name}' twice; rename one")
