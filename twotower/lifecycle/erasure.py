"""Erase users' rows from event files, each file whole or not at all; other rows, and their order, stay as they are.

Texts (CSV, JSON Lines) keep the bytes of every other row; Parquet keeps schema, compression and row groups. Memory: one
row group, or one line.
"""

import csv
import gzip
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError, nearest
from twotower.core.files import sha256
from twotower.core.table_files import JSON_LINES, PARQUET, file_format, open_bytes, separator_of
from twotower.core.values import TextForm
from twotower.data.preparation.privacy import read_erased_users
from twotower.data.readers.files import readable
from twotower.data.text_form import ids

LINES = 100_000  # read at once


class Erased(NamedTuple):
    """What was found in one file, and what became of it."""

    path: Path
    rows: int
    found: int  # rows of these users
    before: str = ""  # SHA-256 of a file that was written anew
    after: str = ""


def listed_users(given: Sequence[str], column: str, form: TextForm) -> frozenset[str]:
    """Return ids in text form: those that are given, or those of the one file that is; see privacy.read_erased_users.

    Raises UserError where there are none.
    """
    if len(given) == 1 and Path(given[0]).is_file():
        users = read_erased_users(given[0], column, form)
    else:
        users = frozenset(ids(pl.Series(given, dtype=pl.String), form).drop_nulls())
    if not users:
        raise UserError(f"{given[0]} names no user")
    return users


def erase_rows(file: Path, column: str, users: Collection[str], form: TextForm, write: bool) -> Erased:
    """Find the rows of users in one file of events; with `write` replace the file by one without them.

    Args:
        file: Parquet, CSV or JSON Lines, the texts also gzipped.
        column: the one that holds ids of users.
        users: ids in text form.
        form: how texts are read: 12, 12.0 and "12" are one user.
        write: whether the file is changed, if there are such rows.

    Raises:
        UserError: the file can't be read, or has no such column.
    """
    passes = _parquet if file_format(file) == PARQUET else _text
    is_user = _matcher(users, form)
    with readable(file):
        rows, found = passes(file, column, is_user, None)
    if not (write and found):
        return Erased(file, rows, found)
    before, temporary = sha256(file), file.with_name(f".{file.name}.{os.getpid()}")
    try:
        passes(file, column, is_user, temporary)
        temporary.chmod(file.stat().st_mode & 0o777)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return Erased(file, rows, found, before, sha256(file))


Matcher = Callable[[pl.Series], pl.Series]


def _matcher(users: Collection[str], form: TextForm) -> Matcher:
    listed = pl.Series(sorted(users), dtype=pl.String).implode()
    return lambda values: ids(values, form).is_in(listed).fill_null(False)


def _parquet(file: Path, column: str, is_user: Matcher, out: Path | None) -> tuple[int, int]:
    """Return rows and matching rows; write the others to `out`."""
    rows = found = 0
    with ExitStack() as stack:
        source = stack.enter_context(pq.ParquetFile(file))
        _require(column, source.schema_arrow.names, file)
        writer = None
        if out is not None:
            codec = source.metadata.row_group(0).column(0).compression if source.num_row_groups else "SNAPPY"
            writer = stack.enter_context(pq.ParquetWriter(out, source.schema_arrow, compression=codec))
        for number in range(source.num_row_groups):
            table = source.read_row_group(number, columns=None if writer else [column])
            values = pl.Series(column, table[column].combine_chunks())
            matches = is_user(values)
            rows, found = rows + len(matches), found + int(matches.sum())
            if writer:
                writer.write_table(table.filter(pa.array((~matches).to_list())))
    return rows, found


def _text(file: Path, column: str, is_user: Matcher, out: Path | None) -> tuple[int, int]:
    rows = found = 0
    with ExitStack() as stack:
        raw = stack.enter_context(open_bytes(file))
        opened: Any = None
        if out is not None:
            zipped = file.name.lower().endswith(".gz")
            opened = stack.enter_context(gzip.GzipFile(out, "wb") if zipped else out.open("wb"))
        is_json = file_format(file) == JSON_LINES
        head, records = (b"", _json_records(raw, column)) if is_json else _csv(raw, column, file)
        if opened:
            opened.write(head)
        for lines, values in _batches(records):
            matches = is_user(pl.Series(values, dtype=pl.String))
            rows, found = rows + len(matches), found + int(matches.sum())
            if opened:
                opened.writelines(line for line, match in zip(lines, matches, strict=True) if not match)
    return rows, found


def _json_records(raw: IO[bytes], column: str) -> Iterator[tuple[bytes, str | None]]:
    for line in raw:
        if line.strip():
            value: Any = json.loads(line).get(column)
            yield line, None if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
        else:
            yield line, None


def _csv(raw: IO[bytes], column: str, file: Path) -> tuple[bytes, Iterator[tuple[bytes, str | None]]]:
    """Return the bytes of the head, and each record's bytes with its user; quoted fields may span lines."""
    head = raw.readline()
    text = head.decode("utf-8-sig")
    separator = separator_of(text)
    names = [name.strip() for name in next(csv.reader([text], delimiter=separator), [])]
    _require(column, names, file)
    place = names.index(column)

    def records() -> Iterator[tuple[bytes, str | None]]:
        record = b""
        for line in raw:
            record += line
            if record.count(b'"') % 2:  # a quoted field goes on
                continue
            fields = next(csv.reader([record.decode()], delimiter=separator), [])
            yield record, fields[place] if len(fields) > place else None
            record = b""
        if record:
            raise UserError(f"{file} ends within a quoted field; nothing was changed")

    return head, records()


def _batches(records: Iterator[tuple[bytes, str | None]]) -> Iterator[tuple[list[bytes], list[str | None]]]:
    lines: list[bytes] = []
    values: list[str | None] = []
    for line, value in records:
        lines.append(line)
        values.append(value)
        if len(lines) == LINES:
            yield lines, values
            lines, values = [], []
    if lines:
        yield lines, values


def _require(column: str, names: list[str], file: Path) -> None:
    if column not in names:
        raise UserError(f"{file} has no column '{column}' (it has: {', '.join(names)}){nearest(column, names) or '.'} "
                        "Name the column of users: --column NAME")  # fmt: skip
