"""Event files of any shop: Parquet, CSV or JSON Lines; one file, a folder or a glob."""

import glob
import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import polars as pl

from twotower.errors import UserError, nearest
from twotower.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID

COLUMNS = (SESSION_ID, USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE, SPLIT)
FORMATS = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".csv.gz": "CSV",
    ".tsv": "CSV",
    ".tsv.gz": "CSV",
    ".jsonl": "JSON Lines",
    ".jsonl.gz": "JSON Lines",
    ".ndjson": "JSON Lines",
}
EXPECTED = {
    "Parquet": "a whole Parquet file",
    "CSV": "UTF-8 text, a line with the columns' names, and as many fields in each line",
    "JSON Lines": "UTF-8 text with one JSON object a line, a column of one kind throughout",
}


def find_files(path: str) -> list[Path]:
    """The event files behind a file, folder or glob, in order of their names.

    In a folder, what begins with "." or "_" is passed over: other programs leave such files there. A glob
    takes all that it matches.

    Raises UserError when there are none, when they are of different formats, or when one is empty.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        found = [p for p in given.rglob("*") if not any(n[0] in "._" for n in p.relative_to(given).parts)]
    elif given.exists():
        found = [given]
    else:
        found = [Path(p) for p in glob.glob(str(given), recursive=True)]
        if not found:
            beside = [p.name for p in given.parent.iterdir()] if given.parent.is_dir() else []
            raise UserError(f"data.path={path}: no such file, folder or glob{nearest(given.name, beside)}")
    files = sorted(p for p in found if p.is_file() and _format(p))
    if not files:
        raise UserError(f"data.path={path}: no event files; expected names that end in {', '.join(FORMATS)}")
    formats = sorted({str(_format(p)) for p in files})
    if len(formats) > 1:
        raise UserError(
            f"data.path={path}: files of {' and '.join(formats)}; choose one kind with a glob, "
            f"for example data.path='{given / '*'}{files[0].suffix}'"
        )
    empty = [p for p in files if p.stat().st_size == 0]
    if empty:
        raise UserError(f"{empty[0]} is empty (0 bytes); delete it or write it again")
    return files


def read_events(files: Sequence[Path], columns: Mapping[str, str | None]) -> pl.DataFrame:
    """Read the mapped columns of all files, one below the other in the files' order.

    Args:
        files: what `find_files` gave.
        columns: schema name -> the file's name for it. None means "the schema's own name, when it is there".

    Returns:
        A frame with those of schema's columns that the files have. Ids are Int64 or String, event types and
        splits String, timestamps UTC datetimes, numbers or String.

    Raises:
        UserError: a missing or unusable column (the nearest name is suggested), or an unreadable file.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise UserError(
            f"data.columns.{unknown[0]} is not a column the events have{nearest(unknown[0], COLUMNS)} "
            f"Expected: {', '.join(COLUMNS)}"
        )
    frames = [_read_file(file, columns) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if frame.columns != frames[0].columns:
            name = sorted(set(frame.columns) ^ set(frames[0].columns))[0]
            has, lacks = (file, files[0]) if name in frame.columns else (files[0], file)
            raise UserError(f"{has} has a column for {name}, {lacks} has none; all files should be alike")
    stamps = [(file, frame[TIMESTAMP].dtype) for file, frame in zip(files, frames, strict=True)]
    dated = {dtype.is_temporal(): file for file, dtype in stamps if dtype != pl.Null}
    if len(dated) == 2:
        raise UserError(f"timestamps are dates in {dated[True]} but not in {dated[False]}; all should be alike")
    return pl.concat(frames, how="vertical_relaxed")  # ids: Int64, or String where one file's are


def _format(path: Path) -> str | None:
    return next((FORMATS[s] for s in FORMATS if path.name.lower().endswith(s)), None)


def _read_file(file: Path, columns: Mapping[str, str | None]) -> pl.DataFrame:
    kind = str(_format(file))
    path = glob.escape(str(file))  # else polars takes a "[" for a glob
    try:
        if kind == "Parquet":
            table = pl.scan_parquet(path, hive_partitioning=False)
        elif kind == "CSV":
            table = _read_csv(file).lazy()
        else:
            table = pl.scan_ndjson(path, infer_schema_length=None)
        present = table.collect_schema().names()
        sources = {name: _source(file, name, columns.get(name), present) for name in COLUMNS}
        mapped = [pl.col(source).alias(name) for name, source in sources.items() if source]
        events = table.select(mapped).collect()
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        reason += _broken_line(file) if kind == "JSON Lines" else ""
        raise UserError(f"{file} can't be read as {kind}: {reason}; expected {EXPECTED[kind]}") from None
    return events.with_columns(_plain(column, file) for column in events.get_columns())


def _read_csv(file: Path) -> pl.DataFrame:
    """All columns as strings: their types are found later, over all rows.

    Unmapped columns are read, too: polars sees lines of too many fields, whose values have moved, only then.
    """
    with _open_text(file) as text:
        header = text.readline()
    separator = max(",;\t|", key=header.count)
    return pl.scan_csv(glob.escape(str(file)), separator=separator, infer_schema=False).collect()


def _open_text(file: Path) -> IO[str]:
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    return opener(file, "rt", encoding="utf-8-sig", errors="replace")


def _broken_line(file: Path) -> str:
    """Which line of a JSON Lines file is the first that is no JSON object, in words."""
    with _open_text(file) as text:
        lines = pl.Series(text.read().split("\n"), dtype=pl.String)
    objects = lines.str.json_path_match("$").str.starts_with("{").fill_null(False)
    broken = (~objects & (lines.str.strip_chars() != "")).arg_true()
    return f" (line {broken[0] + 1})" if len(broken) else ""


def _source(file: Path, name: str, source: str | None, present: Sequence[str]) -> str | None:
    """The file's name for a schema column; None where it has none and needs none."""
    has = f"(it has: {', '.join(present)})"
    if source is None:
        if name in present or name not in (ITEM_ID, TIMESTAMP):
            return name if name in present else None
        raise UserError(
            f"{file} has no column '{name}' {has}{nearest(name, present) or '.'} "
            f"Say which one it is: data.columns.{name}=NAME"
        )
    if source not in present:
        raise UserError(
            f"{file} has no column '{source}', named by data.columns.{name} {has}{nearest(source, present)}"
        )
    return source


def _plain(column: pl.Series, file: Path) -> pl.Series:
    """A column in one of the few types that the rest of the preparation knows."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise UserError(f"{file}: {column.name} holds {column.dtype}; expected strings or numbers")
    if column.name == TIMESTAMP:
        return column.cast(pl.Datetime("us", "UTC")) if column.dtype in (pl.Date, pl.Datetime) else column
    if column.name == SPLIT:
        return column.cast(pl.String)
    ids = _identifier(column)
    return ids.cast(pl.String) if column.name == EVENT_TYPE else ids


def _identifier(column: pl.Series) -> pl.Series:
    """Int64 where every value is a whole number, else String; an empty string is no id.

    Numbers that went through a floating-point column on their way are whole ("12.0", 12.0); numbers with
    leading zeros are strings.
    """
    if column.dtype.is_numeric():
        column = column.fill_nan(None) if column.dtype.is_float() else column
        whole = column.cast(pl.Int64, strict=False)
        same = whole.null_count() == column.null_count() and (whole.cast(column.dtype) == column).all()
        return whole if same else column.cast(pl.String)
    text = column.cast(pl.String).replace("", None)
    digits = text.str.strip_suffix(".0")
    whole = digits.cast(pl.Int64, strict=False)
    same = whole.null_count() == text.null_count() and (whole.cast(pl.String) == digits).all()
    return whole if same else text
