"""Files of any size as frames of bounded size, with numbered rows: the way by which readers deliver events."""

import glob
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.schema import Prepared
from twotower.core.table_files import EXPECTED, JSON_LINES, open_bytes, separator_of
from twotower.data.readers.files import count_about, readable
from twotower.data.readers.source import CHUNK_ROWS, FILE, PLACE, Prepare, Source

PIECE_BYTES = 2**24  # of JSON Lines, parsed at one time
SAMPLE_LINES = 10_000  # of JSON Lines, from which the keys are taken


@dataclass(frozen=True)
class RawFile:
    """One file of events, and how the columns of a Source are computed from its own.

    Attributes:
        path: where it is.
        read: names of the file's columns -> frames with at least those, in the file's order.
        columns: the source's name of a column -> an expression of the file's columns.

    >>> file = RawFile(Path("a"), lambda names: iter([pl.DataFrame({"sku": ["7"]})]), {"item_id": integer("sku")})
    >>> next(in_chunks([file], ["item_id"])).to_dicts()
    [{'item_id': 7, 'place': 0}]
    """

    path: Path
    read: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
    columns: Mapping[str, pl.Expr]


def prepare_files(
    prepare: Prepare,
    files: Sequence[RawFile],
    settings: Mapping[str, Any],  # "reader", the name of the data set, and whatever else decides on the rows
    *,
    unit: str = "auto",
    name: str | None = None,
    columns: Sequence[str] | None = None,
    rows: int | None = None,
    tables: Sequence[Path] = (),  # further files that are read
    items: Callable[[], pl.LazyFrame] | None = None,
    users: Callable[[], pl.LazyFrame] | None = None,
) -> Prepared:
    """Prepare the events of files; the arguments are the attributes of Source, which mostly follow from the files."""
    source = Source(
        name=name or settings["reader"],
        files=[file.path for file in files] + list(tables),
        settings=dict(settings),
        columns=list(columns or files[0].columns),
        rows=sum(count_about(file.path) for file in files) if rows is None else rows,
        unit=unit,
        chunks=partial(in_chunks, files),
        items=items,
        users=users,
        event_files=len(files),
    )
    return prepare(source)


def in_chunks(
    files: Sequence[RawFile], wanted: Sequence[str], only: Collection[int] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield wanted columns of one file after another, as described for Source.chunks; FILE can be one of them.

    Of the numbers of files in `only`, where it is given.

    Raises UserError where a file can't be read.
    """
    for number, file in enumerate(files):
        if only is not None and number not in only:
            continue
        place, columns = 0, {**file.columns, FILE: pl.lit(number, dtype=pl.UInt32)}
        needed = dict.fromkeys(root for name in wanted for root in columns[name].meta.root_names())
        with readable(file.path):
            for frame in file.read(list(needed)):
                rows = frame.with_columns(columns[name].alias(name) for name in wanted)
                for part in rows.select(wanted).iter_slices(CHUNK_ROWS):
                    yield part.with_columns(pl.int_range(place, place + part.height, dtype=pl.Int64).alias(PLACE))
                    place += part.height


def integer(column: str) -> pl.Expr:
    """A column of text as Int64; null where it is no whole number."""
    return pl.col(column).cast(pl.Int64, strict=False)


def number(column: str) -> pl.Expr:
    """A column of text as Float64; null where it is no number."""
    return pl.col(column).cast(pl.Float64, strict=False)


def utc_time(column: str, form: str) -> pl.Expr:
    """A column of text of one form as UTC datetimes; null where it has another form."""
    return pl.col(column).str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)


def delimited_file(
    path: Path,
    columns: Mapping[str, pl.Expr],
    separator: str = ",",
    names: Sequence[str] | None = None,
    quote: str | None = '"',
) -> RawFile:
    """Return delimited text as a RawFile; see `delimited_frames`."""
    return RawFile(path, lambda needed: delimited_frames(path, separator, names, quote), columns)


def small_table(path: Path, separator: str = ",") -> pl.DataFrame:
    """Read a whole delimited file with a line of names, as strings.

    Raises UserError where it can't be read.
    """
    with readable(path):
        return pl.read_csv(path, separator=separator, infer_schema=False)


def parquet_frames(file: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield columns of a Parquet file; pyarrow decodes them piecewise, however large the row groups are."""
    with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(batch_size=CHUNK_ROWS, columns=list(columns)):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def csv_separator(file: Path) -> str:
    """Return the separator of a CSV file, by its first line."""
    with open_bytes(file) as text:
        return separator_of(text.readline().decode("utf-8-sig", errors="replace"))


def csv_columns(file: Path) -> list[str]:
    """Return the names in a CSV file's first line."""
    table = pl.scan_csv(glob.escape(str(file)), separator=csv_separator(file), infer_schema=False, n_rows=0)
    return table.collect_schema().names()


def delimited_frames(
    file: Path, separator: str = ",", names: Sequence[str] | None = None, quote: str | None = '"'
) -> Iterator[pl.DataFrame]:
    """Yield all columns of delimited text as strings; `names` where the text has no line with them.

    All of them, as polars only then reports lines with too many fields, whose values have moved.
    """
    table = pl.scan_csv(
        glob.escape(str(file)),  # else polars reads "[" as part of a glob
        separator=separator,
        quote_char=quote,
        infer_schema=False,
        has_header=names is None,
        schema=None if names is None else dict.fromkeys(names, pl.String),
    )
    yield from table.collect_batches(chunk_size=CHUNK_ROWS)


def json_frames(file: Path, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> Iterator[pl.DataFrame]:
    """Yield keys of JSON Lines in the given types; numbers and nested values become text under pl.String.

    Raises UserError with the number of the first line that is not a JSON object.
    """
    lines = 0
    with open_bytes(file) as text:
        while piece := text.read(PIECE_BYTES):
            piece += text.readline()
            try:
                yield pl.read_ndjson(piece, schema=dict(schema))
            except pl.exceptions.PolarsError:
                _require_objects(file, piece.split(b"\n"), lines)
                raise
            lines += piece.count(b"\n")


def json_keys(file: Path) -> list[str]:
    """Return the keys of the objects in the first SAMPLE_LINES lines of JSON Lines, in order of appearance."""
    with open_bytes(file) as text:
        lines = [line for line, _ in zip(text, range(SAMPLE_LINES), strict=False)]
    _require_objects(file, lines)
    return list({key: None for line in lines if line.strip() for key in json.loads(line)})


def _require_objects(file: Path, lines: Sequence[bytes], before: int = 0) -> None:
    """Raise UserError for the first line that is not a JSON object; `before` is the number of earlier lines."""
    for number, line in enumerate(lines, before + 1):
        try:
            is_object = not line.strip() or isinstance(json.loads(line), dict)
        except ValueError:  # of JSON or of UTF-8
            is_object = False
        if not is_object:
            raise UserError(
                f"{file} can't be read as {JSON_LINES}: line {number} is not a JSON object; "
                f"expected {EXPECTED[JSON_LINES]}"
            )
