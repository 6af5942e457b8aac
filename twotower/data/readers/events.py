"""Event files of any shop: Parquet, CSV or JSON Lines; a file, a folder (Hive partitions, too) or a glob."""

import datetime as dt
import glob
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet as pq

from twotower.core.errors import UserError, nearest
from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID, Prepared
from twotower.core.table_files import CSV, JSON_LINES, PARQUET, file_format
from twotower.data.readers.chunks import (
    RawFile,
    csv_columns,
    csv_separator,
    delimited_frames,
    in_chunks,
    json_frames,
    json_keys,
    parquet_frames,
)
from twotower.data.readers.feature_table import feature_table
from twotower.data.readers.files import count_about, find_files, readable
from twotower.data.readers.source import FILE, PLACE, Prepare, Source
from twotower.data.text_form import shortest, texts

COLUMNS = (SESSION_ID, USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE, SPLIT, CONSENT)
IDS = (SESSION_ID, USER_ID, ITEM_ID)
INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)  # that Int64 holds
AUTO = "auto"  # the schema's own name, where there is such a column
UTC = pl.Datetime("us", "UTC")
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # how Hive and Spark write null


@dataclass(frozen=True)
class _Table:
    """One file: the types of its columns as polars reads them, and the keys of its Hive folders (year=2025)."""

    path: Path
    kind: str
    schema: dict[str, pl.DataType]
    keys: dict[str, str | None]
    rows: int


def read(
    path: str,
    columns: Mapping[str, str | bool | None],
    timestamp_unit: str,
    items: str | None,
    users: str | None,
    prepare: Prepare,
    item_columns: Mapping[str, Any] | None = None,
) -> Prepared:
    """Prepare the event files behind `path`: see event_source."""
    return prepare(event_source(path, columns, timestamp_unit, items, users, item_columns))


def event_source(
    path: str,
    columns: Mapping[str, str | bool | None],
    timestamp_unit: str,
    items: str | None = None,
    users: str | None = None,
    item_columns: Mapping[str, Any] | None = None,
) -> Source:
    """Open the event files behind `path`.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSON Lines. Keys of Hive's folders (year=2025) are columns.
        columns: schema name -> the files' name for it; AUTO, or a name that is missing: the schema's own name, when it
            is there; None or False: a column of that name is ignored.
        timestamp_unit: what numeric timestamps count: auto, s, ms, us, ns or ordinal.
        items: a table of item features (see feature_table), or None.
        users: a table of user features, or None.
        item_columns: item_id and timestamp -> the item table's name for it, None: as in the events; false for
            timestamp: a column of that name has no meaning.

    Raises:
        UserError: a missing or unusable column (the nearest name is suggested), or an unreadable file.
    """
    off = {name for name, source in columns.items() if source is None or source is False}
    # Overrides from the command line may be numbers; columns have names.
    names = {name: str(source) for name, source in columns.items() if name not in off and source != AUTO}
    for name in columns:
        if name not in COLUMNS:
            near = nearest(name, COLUMNS) or "."
            raise UserError(
                f"data.columns.{name} is not a column that events have{near} Expected: {', '.join(COLUMNS)}"
            )
        if name in off and name in (ITEM_ID, TIMESTAMP):
            raise UserError(f"data.columns.{name}={columns[name]}; events need this column: give its name, or {AUTO}")
    tables = [_open(file) for file in find_files(path)]
    sources = _sources(tables, names, off)
    types = {name: _type(name, source, tables) for name, source in sources.items() if name in COLUMNS}

    def chunks(wanted: Sequence[str], only: Collection[int] | None = None) -> Iterator[pl.DataFrame]:
        chosen = {name: types.get(name) or _type(name, sources[name], tables) for name in wanted if name != FILE}
        yield from in_chunks([_raw_file(table, sources, chosen) for table in tables], wanted, only)

    extra = {}
    for name, given in ((ITEM_ID, items), (USER_ID, users)):
        own = _table_names(item_columns) if name == ITEM_ID else {}
        extra[name] = feature_table(given, name, {**names, **own}, timestamp_unit) if given else ([], None)
    return Source(
        name=Path(path).stem,
        files=[table.path for table in tables] + extra[ITEM_ID][0] + extra[USER_ID][0],
        settings={
            "reader": "events",
            "columns": {**names, **dict.fromkeys(off, False)},
            "unit": timestamp_unit,
            "items": items,
            "users": users,
            "item_columns": _table_names(item_columns),
        },
        columns=list(sources),
        rows=sum(table.rows for table in tables),
        unit=timestamp_unit,
        chunks=chunks,
        items=extra[ITEM_ID][1],
        users=extra[USER_ID][1],
        event_files=len(tables),
    )


def _table_names(item_columns: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check data.item_columns; only what is given remains."""
    for name, given in (item_columns or {}).items():
        if name not in (ITEM_ID, TIMESTAMP) or given is True or (given is False and name == ITEM_ID):
            raise UserError(
                f"data.item_columns.{name}={given}; expected {ITEM_ID}=NAME, {TIMESTAMP}=NAME or {TIMESTAMP}=false. "
                "Features have their column in their declaration: preparation.features.items.FEATURE.column"
            )
    named = {name: given for name, given in (item_columns or {}).items() if given is not None}
    return {name: given if given is False else str(given) for name, given in named.items()}


def _open(file: Path) -> _Table:
    """Read the columns of a file, and the number of its rows, which is an estimate for text."""
    kind = str(file_format(file))
    keys = _keys(file)
    with readable(file):
        if kind == PARQUET:
            with pq.ParquetFile(file) as parquet:
                schema = pl.read_parquet_schema(glob.escape(str(file)))
                return _Table(file, kind, schema, keys, parquet.metadata.num_rows)
        present = csv_columns(file) if kind == CSV else json_keys(file)
    return _Table(file, kind, dict.fromkeys(present, pl.String()), keys, count_about(file))


def _keys(file: Path) -> dict[str, str | None]:
    """Return the keys and values of the Hive folders key=value above a file."""
    pairs = [part.split("=", 1) for part in file.parts[:-1] if "=" in part[1:]]
    return {unquote(key): None if value == NO_PARTITION else unquote(value) for key, value in pairs}


def _sources(tables: Sequence[_Table], names: Mapping[str, str], off: Collection[str]) -> dict[str, str]:
    """Return the files' name of each column of the source: schema names first, then the files' further columns."""
    present = [list({**table.schema, **table.keys}) for table in tables]
    if tables[0].kind == JSON_LINES:  # a key that a file lacks is null there
        present = [list({name: None for columns in present for name in columns})] * len(tables)
    sources = {}
    for name in (name for name in COLUMNS if name not in off):
        found = [_find(t.path, name, names.get(name), has) for t, has in zip(tables, present, strict=True)]
        if found[0] and all(found):
            sources[name] = found[0]
        elif any(found):
            has, lacks = (
                next(t.path for t, f in zip(tables, found, strict=True) if bool(f) == b) for b in (True, False)
            )
            raise UserError(f"{has} has a column for {name}, {lacks} has none; all files should be alike")
    further = {name: name for columns in present for name in columns if name not in (*COLUMNS, PLACE, FILE)}
    return sources | further


def _find(file: Path, name: str, source: str | None, present: Sequence[str]) -> str | None:
    """Return the file's name for a schema column; None where it lacks an optional one."""
    wanted = source or name
    if wanted in present:
        return wanted
    if source is None and name not in (ITEM_ID, TIMESTAMP):
        return None
    raise UserError(
        f"{file} has no column '{wanted}' (it has: {', '.join(present)}){nearest(wanted, present) or '.'} "
        f"Name the right one: data.columns.{name}=NAME"
    )


def _type(name: str, source: str, tables: Sequence[_Table]) -> pl.DataType:
    """Return the type of a column that is the same in all chunks."""
    found = [(table.path, _source_type(name, source, table)) for table in tables]
    known = [(path, dtype) for path, dtype in found if dtype != pl.Null]
    types = [dtype for _, dtype in known]
    for path, dtype in known:
        odd = dtype.is_nested() or dtype in (pl.Binary, pl.Object)
        if odd or (name == TIMESTAMP and dtype in (pl.Time, pl.Duration, pl.Boolean)):
            raise UserError(f"{path}: {source} holds {dtype}; expected strings or numbers")
    if name == TIMESTAMP:
        dated = {dtype.is_temporal(): path for path, dtype in known}
        if len(dated) == 2:
            raise UserError(f"timestamps are dates in {dated[True]} but not in {dated[False]}; all should be alike")
        if True in dated:
            return UTC
    if name in (EVENT_TYPE, SPLIT, CONSENT):
        return pl.String()
    if all(dtype in INTEGERS for dtype in types) or (name not in IDS and all(dtype.is_integer() for dtype in types)):
        return pl.Int64()
    return pl.Float64() if name not in IDS and all(dtype.is_numeric() for dtype in types) else pl.String()


def _source_type(name: str, source: str, table: _Table) -> pl.DataType:
    if source in table.schema:
        return table.schema[source]
    if source not in table.keys:
        return pl.Null()
    value = table.keys[source]
    if value is None:
        return pl.Null()
    return UTC if name == TIMESTAMP and _date(value) else pl.String()


def _date(value: str) -> dt.datetime | None:
    """Parse a folder's value as a time such as 2025-01-31, 20250131 or 2025-01-31 12:00:00; None for others."""
    try:
        time = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _raw_file(table: _Table, sources: Mapping[str, str], types: Mapping[str, pl.DataType]) -> RawFile:
    columns = {name: _expression(name, sources[name], dtype, table) for name, dtype in types.items()}

    def frames(needed: Sequence[str]) -> Iterator[pl.DataFrame]:
        needed = needed or list(table.schema)[:1]  # else there would be no rows to repeat a folder's value for
        if table.kind == PARQUET:
            yield from parquet_frames(table.path, needed)
        elif table.kind == CSV:
            yield from delimited_frames(table.path, csv_separator(table.path))
        else:
            for frame in json_frames(table.path, dict.fromkeys(needed, pl.String)):
                _refuse_nested(frame, table.path)
                yield frame

    return RawFile(table.path, frames, columns)


def _expression(name: str, source: str, dtype: pl.DataType, table: _Table) -> pl.Expr:
    """Return an expression that reads a column with this type."""
    if source not in table.schema:
        value = table.keys.get(source)
        return pl.lit(_date(value) if value and dtype == UTC else value, dtype=dtype)
    column, given = pl.col(source), table.schema[source]
    if dtype != pl.String:
        return (
            column.map_batches(shortest, return_dtype=pl.Float64)
            if given == pl.Float32
            else column.cast(dtype, strict=False)
        )
    if given.is_float() or given.is_decimal():  # ids are often stored as floating point numbers
        return column.map_batches(texts, return_dtype=pl.String)
    text = column.cast(pl.String)
    return pl.when(text != "").then(text)  # an empty string is null


def _refuse_nested(frame: pl.DataFrame, file: Path) -> None:
    """Raise UserError where a JSON value is an array or an object, which polars reads as text."""
    for column in frame.get_columns():
        suspects = column.filter(column.str.starts_with("[") | column.str.starts_with("{"))
        for value in suspects.unique().head(100):
            try:
                json.loads(value)
            except ValueError:
                continue
            raise UserError(f"{file}: {column.name} holds {value}; expected strings or numbers")
