"""Files of tables by their names: Parquet, CSV and JSON Lines, the texts also gzipped."""

import gzip
from pathlib import Path
from typing import IO

PARQUET, CSV, JSON_LINES = "Parquet", "CSV", "JSON Lines"
FORMATS = {".parquet": PARQUET, ".pq": PARQUET}
FORMATS |= {f"{name}{zipped}": CSV for name in (".csv", ".tsv") for zipped in ("", ".gz")}
FORMATS |= {f"{name}{zipped}": JSON_LINES for name in (".jsonl", ".ndjson") for zipped in ("", ".gz")}
EXPECTED = {
    PARQUET: "a whole Parquet file",
    CSV: "UTF-8 text with as many fields in each line as in the first",
    JSON_LINES: "UTF-8 text with one JSON object a line",
}


def file_format(path: Path) -> str | None:
    """Return the format of FORMATS by the end of the file's name; None for other files."""
    return next((FORMATS[end] for end in FORMATS if path.name.lower().endswith(end)), None)


def open_bytes(file: Path) -> IO[bytes]:
    """Open a file for reading, unzipped where its name ends in .gz."""
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # type: ignore[return-value]


def separator_of(line: str) -> str:
    """Return comma, semicolon, tab or bar: the one that is most frequent in the first line of a CSV file."""
    return max(",;\t|", key=line.count)
