"""Finding and opening the files behind a setting; errors name the file that can't be read, and say why."""

import glob
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from twotower.core.errors import UserError, nearest
from twotower.core.table_files import CSV, EXPECTED, FORMATS, file_format

SAMPLE_BYTES = 2**22


def find_files(path: str, setting: str = "data.path") -> list[Path]:
    """Return the files of a table behind a file, folder or glob, in order of their names.

    In a folder, names that begin with "." or "_" are skipped, as other programs leave such files there (but not
    folders "_key=value"). A glob takes all that it matches.

    Raises UserError where there are none, where they have different formats, or where one is empty.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        found = [p for p in given.rglob("*") if not any(map(_is_hidden, p.relative_to(given).parts))]
    elif given.exists():
        found = [given]
    else:
        found = [Path(p) for p in glob.glob(str(given), recursive=True)]
        if not found:
            beside = [p.name for p in given.parent.iterdir()] if given.parent.is_dir() else []
            raise UserError(f"{setting}={path}: no such file, folder or glob{nearest(given.name, beside)}")
    files = sorted(p for p in found if p.is_file() and file_format(p))
    if not files:
        raise UserError(f"{setting}={path}: no files of a table; expected names that end in {', '.join(FORMATS)}")
    formats = sorted({str(file_format(p)) for p in files})
    if len(formats) > 1:
        raise UserError(
            f"{setting}={path}: files of {' and '.join(formats)}; choose one kind with a glob, "
            f"for example {setting}='{given / '*'}{files[0].suffix}'"
        )
    refuse_empty(files)
    return files


def published_file(folder: str | Path, names: Sequence[str], page: str) -> Path:
    """Return the file of a public data set that has one of these names, gzipped or not.

    Raises UserError that names the page to download it from, and where to put it.
    """
    folder = Path(folder).expanduser()
    found = [folder / (name + end) for name in names for end in ("", ".gz") if (folder / (name + end)).is_file()]
    if not found:
        raise UserError(
            f"data.path={folder}: {'there is no' if folder.is_dir() else 'expected a folder with'} "
            f"{' or '.join(names)}; download it from {page} and put it there"
        )
    refuse_empty(found[:1])
    return found[0]


def published_files(path: str, page: str) -> list[Path]:
    """Return `find_files` of a public data set; the UserError names the page to download it from, too."""
    try:
        return find_files(path)
    except UserError as error:
        raise UserError(f"{error}. Download the data from {page}; data.path is the file or its folder") from None


def refuse_empty(files: Iterable[Path]) -> None:
    """Raise UserError for a file of 0 bytes."""
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file} is empty (0 bytes); delete it or write it again")


def count_about(file: Path, mark: bytes = b"\n") -> int:
    """Estimate how often a text file holds `mark`, from its first SAMPLE_BYTES; rather too often than too rarely."""
    with readable(file), file.open("rb") as raw:
        text = gzip.GzipFile(fileobj=raw) if file.name.lower().endswith(".gz") else raw
        sample = text.read(SAMPLE_BYTES)
        share = 1.0 if len(sample) < SAMPLE_BYTES else raw.tell() / file.stat().st_size
    return int((sample.count(mark) + 1) * (1.0 if share == 1 else 1.25 / share))


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Convert errors while a file is read to a UserError that names the file."""
    kind = file_format(file) or CSV
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{file} can't be read as {kind}: {reason}; expected {EXPECTED[kind]}") from None


def _is_hidden(name: str) -> bool:
    return name[0] == "." or (name[0] == "_" and "=" not in name)
