"""Event files of any shop: Parquet, CSV or JSON Lines; one file, a folder or a glob."""

import glob
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
}


def find_files(path: str) -> list[Path]:
    """The event files behind a file, folder or glob, in order of their names.

    Raises UserError when there are none, or when they are of different formats.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        candidates = [p for p in given.rglob("*") if p.is_file()]
    else:
        candidates = [Path(p) for p in glob.glob(str(given), recursive=True)]
        if not candidates:
            parent = given.parent
            beside = [p.name for p in parent.iterdir()] if parent.is_dir() else []
            raise UserError(f"data.path={path}: no such file, folder or glob{nearest(given.name, beside)}")
    files = sorted(p for p in candidates if _format(p) and p.name[0] not in "._")
    if not files:
        raise UserError(f"data.path={path}: no event files there; expected one of {', '.join(FORMATS)}")
    formats = sorted({str(_format(p)) for p in files})
    if len(formats) > 1:
        raise UserError(f"data.path={path}: files of {' and '.join(formats)}; name one kind with a glob")
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
        A frame with those of schema's columns that the files have; ids are Int64 or String.

    Raises:
        UserError: a missing or unusable column (the nearest name is suggested), or an unreadable file.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise UserError(f"data.columns.{unknown[0]} is not a column the events have{nearest(unknown[0], COLUMNS)}")
    frames = [_read_file(file, columns) for file in files]
    for name in (SESSION_ID, USER_ID, ITEM_ID):
        if len({frame.schema[name] for frame in frames if name in frame.columns}) > 1:
            frames = [f.with_columns(pl.col(name).cast(pl.String)) if name in f.columns else f for f in frames]
    try:
        events = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise UserError(f"the files do not have the same columns: {error}") from None
    return events.with_columns(
        _identifier(events[name]) for name in (SESSION_ID, USER_ID, ITEM_ID) if name in events.columns
    )


def _format(path: Path) -> str | None:
    return next((FORMATS[s] for s in FORMATS if path.name.lower().endswith(s)), None)


def _read_file(file: Path, columns: Mapping[str, str | None]) -> pl.DataFrame:
    try:
        frame = _scan(file)
        present = frame.collect_schema().names()
        wanted = {name: _resolve(file, name, columns.get(name), present) for name in COLUMNS}
        found = {name: source for name, source in wanted.items() if source is not None}
        return frame.select(pl.col(source).alias(name) for name, source in found.items()).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file} can't be read as {_format(file)}: {str(error).splitlines()[0]}") from None


def _scan(file: Path) -> pl.LazyFrame:
    """Text formats come as strings: their types are found later, over all rows of all files."""
    if _format(file) == "Parquet":
        return pl.scan_parquet(file, hive_partitioning=False)
    if _format(file) == "CSV":
        opener = gzip.open if file.name.endswith(".gz") else open
        with opener(file, "rt", encoding="utf-8-sig", errors="replace") as text:
            header = text.readline()
        separator = max(",;\t|", key=header.count)
        return pl.scan_csv(file, separator=separator, infer_schema=False)
    return pl.scan_ndjson(file, infer_schema_length=None)


def _resolve(file: Path, name: str, source: str | None, present: Sequence[str]) -> str | None:
    if source is None:
        source = name if name in present else None
        if source is None and name in (ITEM_ID, TIMESTAMP):
            raise UserError(
                f"{file} has no column '{name}' (it has: {', '.join(present)}){nearest(name, present)} "
                f"Say which one it is: data.columns.{name}=NAME"
            )
    elif source not in present:
        raise UserError(
            f"{file} has no column '{source}' (data.columns.{name}; it has: {', '.join(present)})"
            f"{nearest(source, present)}"
        )
    return source


def _identifier(column: pl.Series) -> pl.Series:
    """Ids as Int64 where every one is a whole number written plainly, else as String."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        return whole if (whole.cast(pl.Float64) == column).all() else column.cast(pl.String)
    if column.dtype in (pl.List, pl.Struct, pl.Array, pl.Binary, pl.Object):
        raise UserError(f"column '{column.name}' holds {column.dtype}; ids are strings or integers")
    text = column.cast(pl.String)
    whole = text.cast(pl.Int64, strict=False)
    return whole if (whole.cast(pl.String) == text).all() and whole.null_count() == text.null_count() else text
