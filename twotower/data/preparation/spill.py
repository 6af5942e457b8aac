"""Intermediate files, which let preparation work on one part of the events at a time.

Memory: a chunk of rows. Disk: about 30 bytes a row, until the end.
"""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from twotower.core.arrays import Array

KEY = "key"
T = TypeVar("T")


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each computed in another thread while the one before it is processed."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        upcoming = executor.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = executor.submit(next, items, None)
            yield item


class Partitions:
    """Files of rows: all rows of a key are in one of them, and each holds about the same share of the keys.

    Keys are hashed with a secret seed, so no id is ever written. It lives as long as this object, or as a store.

    Args:
        folder: where the files go.
        count: number of files, a power of two.
        seed: None: a random one.

    >>> Partitions(Path("work"), 1).hashed(pl.Series(["a", "b", None])).null_count()
    1
    """

    def __init__(self, folder: Path, count: int, seed: int | None = None) -> None:
        self.count = count
        self._seed = secrets.randbits(63) if seed is None else seed
        self._folder = folder
        self._shift = 64 - (count.bit_length() - 1)
        self._paths = [folder / f"rows-{number}.arrow" for number in range(count)]
        self._writers: dict[int, Any] = {}

    def hashed(self, column: pl.Series, like: pl.DataType | None = None) -> pl.Series:
        """Return UInt64 secret hashes [E] of ids [E]; null stays null.

        Args:
            column: Int64 or String.
            like: the type that the ids had where they were hashed before: a number has the hash of its text.
        """
        if like == pl.String:
            column = column.cast(pl.String)
        hashes = column.hash(self._seed)
        if like == pl.Int64 and column.dtype == pl.String:
            number = column.cast(pl.Int64, strict=False)
            same = (number.cast(pl.String) == column).fill_null(False)
            hashes = number.hash(self._seed).zip_with(same, hashes)
        return hashes.set(column.is_null(), None) if column.null_count() else hashes

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows; their column KEY holds hashes, and all frames have the same columns."""
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
        """Finish the files; no rows can be appended afterwards."""
        for writer in self._writers.values():
            writer.close()

    def refined(self, count: int) -> "Partitions":
        """Return the rows in `count` files, if that is more."""
        if count <= self.count:
            return self
        folder = self._folder / "finer"
        folder.mkdir()
        finer = Partitions(folder, count, self._seed)
        for number in range(self.count):
            if (rows := self.take(number)) is not None:
                finer.append(rows)
        finer.close()
        return finer

    def take(self, number: int) -> pl.DataFrame | None:
        """Return the rows of a file, which is deleted; None where it has none."""
        if number not in self._writers:
            return None
        with pa.OSFile(str(self._paths[number])) as file:
            table = pa.ipc.open_stream(file).read_all()
        self._paths[number].unlink()
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame


class ArrayFile:
    """A one-dimensional .npy file that is appended to, then closed, then read by range.

    >>> import tempfile
    >>> file = ArrayFile(Path(tempfile.mkdtemp()) / "a.npy", "int32")
    >>> file.append(np.array([1, 2])), file.append(np.array([3])), file.close()
    (None, None, None)
    >>> file.read(1, 3), np.load(file.path)
    (array([2, 3], dtype=int32), array([1, 2, 3], dtype=int32))
    """

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file = path.open("wb")
        self._begin = self._write_header()

    @classmethod
    def closed(cls, path: Path) -> "ArrayFile":
        """Return a file that was written before, to be read."""
        file = cls.__new__(cls)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        file.path, file.dtype, file.length, file._begin = (
            path,
            array.dtype,
            len(array),
            path.stat().st_size - array.nbytes,
        )
        return file

    def append(self, array: Array) -> None:
        """Add elements at the end."""
        np.ascontiguousarray(array, dtype=self.dtype).tofile(self._file)
        self.length += len(array)

    def close(self) -> None:
        """Write the length, and close the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def read(self, begin: int, end: int) -> Array:
        """Return elements [end - begin] of a closed file."""
        return np.fromfile(self.path, self.dtype, end - begin, offset=self._begin + begin * self.dtype.itemsize)

    def array(self) -> Array:
        """Return all elements of a closed file as a memory map."""
        return np.memmap(self.path, self.dtype, "r", self._begin, (self.length,))

    def _write_header(self) -> int:
        # NumPy leaves room in the header for a length that grows, so a second one is as long as the first.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.flush()
        return self._file.tell()
