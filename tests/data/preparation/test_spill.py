"""Rows on disk by session, arrays written piece by piece."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.data.preparation.spill import KEY, ArrayFile, Partitions


@pytest.mark.parametrize("count", [1, 2, 16])
def test_partitions_keep_every_row_and_each_key_together(tmp_path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    ids = pl.Series([f"session {i}" for i in random.integers(0, 60, 500)])
    partitions = Partitions(tmp_path, count)
    rows = pl.DataFrame([partitions.hashed(ids).alias(KEY), pl.Series("row", np.arange(500)), ids.alias("id")])
    for start in range(0, 500, 90):
        partitions.append(rows[start : start + 90])
    partitions.close()
    found = [rows for number in range(count) if (rows := partitions.take(number)) is not None]
    assert sorted(pl.concat(found)["row"].to_list()) == list(range(500))
    homes = [set(frame["id"]) for frame in found]
    assert sum(map(len, homes)) == 60
    assert len(found) > count / 2
    for frame in found:
        assert frame["row"].is_sorted()  # as they came
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_secret_and_keep_nulls(tmp_path: Path) -> None:
    ids = pl.Series(["a", None, "b", "a"])
    one, other = Partitions(tmp_path, 1).hashed(ids), Partitions(tmp_path, 1).hashed(ids)
    assert one[0] == one[3] != one[2]
    assert one[1] is None
    assert one[0] != other[0]


def test_arrays_are_read_by_range(tmp_path: Path) -> None:
    small, large = ArrayFile(tmp_path / "small.npy", "|u1"), ArrayFile(tmp_path / "large.npy", "<i8")
    for start in (0, 10, 10, 30):
        values = np.arange(start, start + 10)
        small.append(values)
        large.append(values * 10**12)
    small.close()
    large.close()
    assert small.read(5, 15).tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert large.read(38, 40).tolist() == [38 * 10**12, 39 * 10**12]
    assert large.read(7, 7).tolist() == []


@pytest.mark.parametrize("pieces", [[], [0], [3], [3, 0, 100_000, 1]])
def test_an_array_written_piece_by_piece(tmp_path: Path, pieces: list[int]) -> None:
    parts = [np.arange(size) for size in pieces]
    writer = ArrayFile(tmp_path / "a.npy", "int32")
    for part in parts:
        writer.append(part)
    writer.close()
    found = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert found.dtype == np.int32
    assert found.tolist() == [int(v) for part in parts for v in part]
