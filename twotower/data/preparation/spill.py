"""Rows on disk, by session: what lets preparation work on one part of the events at a time.

Memory: a chunk of rows, and each dictionary's distinct values. Disk: about 30 bytes a row, until the end.
"""

import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Array = npt.NDArray[Any]
KEY = "key"
FEW = 64  # values that are faster found as an enumeration than by a join
Thing = TypeVar("Thing")


def ahead(things: Iterator[Thing]) -> Iterator[Thing]:
    """The same things, each made in another thread while the one before it is worked on."""
    with ThreadPoolExecutor(max_workers=1) as maker:
        coming = maker.submit(next, things, None)
        while (thing := coming.result()) is not None:
            coming = maker.submit(next, things, None)
            yield thing


class Dictionary:
    """Codes for the values of a column, from 1 on in the order in which they come; 0 is null."""

    def __init__(self) -> None:
        self._table = pl.DataFrame()

    def encode(self, column: pl.Series) -> pl.Series:
        """[E] values -> [E] UInt32 codes."""
        values = column.rename("value")
        if self._table.width == 0:
            self._table = values.clear().to_frame().with_columns(code=pl.lit(0, pl.UInt32))
        codes = self._look_up(values)
        if codes.null_count() > values.null_count():
            missing = codes.is_null().arg_true()
            new = values.gather(missing).drop_nulls().unique()
            first = self._table.height + 1
            numbers = pl.int_range(first, first + len(new), dtype=pl.UInt32)
            self._table = self._table.vstack(new.to_frame().with_columns(code=numbers)).rechunk()
            codes = codes.scatter(missing, self._look_up(values.gather(missing)))
        return codes.fill_null(0).alias(column.name)

    def _look_up(self, values: pl.Series) -> pl.Series:
        if values.dtype == pl.String and self._table.height <= FEW:
            places = values.cast(pl.Enum(self._table["value"]), strict=False).to_physical()
            return places.cast(pl.UInt32) + 1
        return values.to_frame().join(self._table, on="value", how="left", maintain_order="left")["code"]

    @property
    def values(self) -> pl.Series:
        """The distinct values, by code from 1."""
        return self._table["value"] if self._table.width else pl.Series("value", [], pl.String)


def ranks(values: pl.Series) -> tuple[pl.Series, Array]:
    """Sort a dictionary's values, so that nothing depends on the order in which they came.

    Returns:
        The distinct values in their order, and [codes + 1] each code's rank among them from 1; 0 stays 0.
    """
    rank = values.rank("dense").cast(pl.UInt32).to_numpy()
    return values.unique().sort(), np.concatenate([np.zeros(1, np.uint32), rank])


class Partitions:
    """Files of rows: all rows of a key lie in one, each file holds about the same share of the keys.

    Keys are hashed with a random number that lives as long as this object: no id is written anywhere.

    Args:
        folder: where the files go.
        count: how many there are, a power of two.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self._seed = secrets.randbits(63)
        self._shift = 64 - (count.bit_length() - 1)
        self._paths = [folder / f"rows-{number}.arrow" for number in range(count)]
        self._writers: dict[int, Any] = {}

    def hashed(self, column: pl.Series) -> pl.Series:
        """[E] ids -> [E] UInt64 secret hashes; null stays null."""
        return column.hash(self._seed).set(column.is_null(), None) if column.null_count() else column.hash(self._seed)

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows; their column KEY holds hashes, all frames have the same columns."""
        if self.count == 1:
            self._write(0, rows)
            return
        number = (pl.col(KEY) // 2**self._shift).cast(pl.UInt16).alias("number")
        for (value,), part in rows.with_columns(number).partition_by("number", as_dict=True, include_key=False).items():
            self._write(int(value), part)

    def _write(self, number: int, rows: pl.DataFrame) -> None:
        table = rows.to_arrow()
        if number not in self._writers:
            self._writers[number] = pa.ipc.new_stream(str(self._paths[number]), table.schema)
        self._writers[number].write_table(table)

    def close(self) -> None:
        """Nothing is appended any more."""
        for writer in self._writers.values():
            writer.close()

    def take_all(self) -> Iterator[pl.DataFrame]:
        """The rows of one file after another; a file goes once it is read."""
        for number in sorted(self._writers):
            with pa.OSFile(str(self._paths[number])) as file:
                table = pa.ipc.open_stream(file).read_all()
            self._paths[number].unlink()
            frame = pl.from_arrow(table)
            assert isinstance(frame, pl.DataFrame)
            yield frame


class Columns:
    """Flat columns that grow at their end and are read by range, one raw file each."""

    def __init__(self, folder: Path, dtypes: Mapping[str, str]) -> None:
        self.dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._paths = {name: folder / f"{name}.column" for name in dtypes}
        for path in self._paths.values():
            path.touch()

    def append(self, arrays: Mapping[str, Array]) -> None:
        """Add rows; each column must be given."""
        for name, dtype in self.dtypes.items():
            with self._paths[name].open("ab") as file:
                np.ascontiguousarray(arrays[name], dtype=dtype).tofile(file)

    def read(self, name: str, begin: int, end: int) -> Array:
        """[end - begin] of one column."""
        dtype = self.dtypes[name]
        return np.fromfile(self._paths[name], dtype, count=end - begin, offset=begin * dtype.itemsize)


class ArrayWriter:
    """Writes a one-dimensional .npy file piece by piece; it is complete once closed."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file: IO[bytes] = path.open("wb")
        self._header()

    def append(self, array: Array) -> None:
        """Add elements at the end."""
        np.ascontiguousarray(array, dtype=self.dtype).tofile(self._file)
        self.length += len(array)

    def close(self) -> None:
        """Write the length, and close."""
        self._file.seek(0)
        self._header()
        self._file.close()

    def _header(self) -> None:
        # NumPy leaves room in the header for a length that grows, so a second one is as long as the first.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
