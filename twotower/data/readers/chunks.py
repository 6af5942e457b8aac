"""Files of any size as frames of bounded size, numbered by row: the one way by which readers deliver events."""

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.data.readers.files import EXPECTED, JSON_LINES, open_bytes, readable
from twotower.data.readers.source import CHUNK_ROWS, PLACE

PIECE_BYTES = 2**24  # of JSON Lines, parsed at one time
SAMPLE_LINES = 10_000  # of JSON Lines, in which a key must occur to be known


@dataclass(frozen=True)
class RawFile:
    """One file of events.

    Attributes:
        path: where it is.
        read: names of the file's columns -> frames with at least those, in the file's order.
        columns: what the source calls a column -> how it comes from the file's columns.
    """

    path: Path
    read: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
    columns: Mapping[str, pl.Expr]


def in_chunks(files: Sequence[RawFile], wanted: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Wanted columns of all files, a file after the other, as `source.Source.chunks` promises them.

    Raises UserError where a file can't be read.
    """
    for file in files:
        place = 0
        needed = dict.fromkeys(root for name in wanted for root in file.columns[name].meta.root_names())
        with readable(file.path):
            for frame in file.read(list(needed)):
                rows = frame.with_columns(file.columns[name].alias(name) for name in wanted)
                for part in rows.select(wanted).iter_slices(CHUNK_ROWS):
                    yield part.with_columns(pl.int_range(place, place + part.height, dtype=pl.Int64).alias(PLACE))
                    place += part.height


def delimited_file(
    path: Path,
    columns: Mapping[str, pl.Expr],
    separator: str = ",",
    names: Sequence[str] | None = None,
    quote: str | None = '"',
) -> RawFile:
    """Delimited text as a RawFile; see `delimited_frames`."""
    return RawFile(path, lambda needed: delimited_frames(path, separator, names, quote), columns)


def small_table(path: Path, separator: str = ",") -> pl.DataFrame:
    """A whole delimited file with a line of names, as strings.

    Raises UserError where it can't be read.
    """
    with readable(path):
        return pl.read_csv(path, separator=separator, infer_schema=False)


def utc_time(column: str, form: str) -> pl.Expr:
    """Text of one form as UTC datetimes; null where it has another."""
    return pl.col(column).str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)


def parquet_frames(file: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Columns of a Parquet file; pyarrow decodes them piecewise, however large the row groups are."""
    with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, columns=list(columns)):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def csv_separator(file: Path) -> str:
    """Comma, semicolon, tab or bar: which of them the line with the names has most of."""
    with open_bytes(file) as text:
        header = text.readline().decode("utf-8-sig", errors="replace")
    return max(",;\t|", key=header.count)


def csv_columns(file: Path) -> list[str]:
    """The names in a CSV file's first line."""
    table = pl.scan_csv(glob.escape(str(file)), separator=csv_separator(file), infer_schema=False, n_rows=0)
    return table.collect_schema().names()


def delimited_frames(
    file: Path, separator: str = ",", names: Sequence[str] | None = None, quote: str | None = '"'
) -> Iterator[pl.DataFrame]:
    """All columns of delimited text as strings; `names` where it has no line with them.

    All of them, because polars sees lines of too many fields, whose values have moved, only then.
    """
    table = pl.scan_csv(
        glob.escape(str(file)),  # else polars takes a "[" for a glob
        separator=separator,
        quote_char=quote,
        infer_schema=False,
        has_header=names is None,
        schema=None if names is None else dict.fromkeys(names, pl.String),
    )
    yield from table.collect_batches(chunk_size=CHUNK_ROWS)


def json_frames(file: Path, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> Iterator[pl.DataFrame]:
    """Keys of JSON Lines in the given types; under pl.String, numbers and nested values come as their text.

    Raises UserError with the number of the first line that is no JSON object.
    """
    lines = 0
    with open_bytes(file) as text:
        while piece := text.read(PIECE_BYTES):
            piece += text.readline()
            try:
                yield pl.read_ndjson(piece, schema=dict(schema))
            except pl.exceptions.PolarsError:
                broken = _broken_line(piece.split(b"\n"))
                if broken is None:
                    raise
                raise _no_object(file, lines + broken) from None
            lines += piece.count(b"\n")


def json_keys(file: Path) -> list[str]:
    """Keys of the objects in the first SAMPLE_LINES lines of JSON Lines, in the order in which they first occur."""
    with open_bytes(file) as text:
        lines = [line for line, _ in zip(text, range(SAMPLE_LINES), strict=False)]
    broken = _broken_line(lines)
    if broken is not None:
        raise _no_object(file, broken)
    return list({key: None for line in lines if line.strip() for key in json.loads(line)})


def _broken_line(lines: Sequence[bytes]) -> int | None:
    """The number, from 0, of the first line that is no JSON object."""
    for number, line in enumerate(lines):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return number
        except ValueError:  # of JSON or of UTF-8
            return number
    return None


def _no_object(file: Path, line: int) -> UserError:
    return UserError(
        f"{file} can't be read as {JSON_LINES}: line {line + 1} is no JSON object; expected {EXPECTED[JSON_LINES]}"
    )
