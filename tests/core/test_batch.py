"""The one way from events to model input."""

import numpy as np
import pytest

from twotower.core.batch import build_history, gather, history_positions
from twotower.core.schema import PAD


@pytest.mark.parametrize("seed", range(20))
def test_histories_equal_a_naive_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    events = random.integers(1, 99, size=random.integers(1, 60)).astype(np.int32)
    end = random.integers(0, len(events) + 1, size=random.integers(1, 15))
    available = np.array([random.integers(0, e + 1) for e in end])
    max_length = int(random.integers(1, 12))

    expected = []
    for e, n in zip(end, available, strict=True):
        expected.append([int(i) for i in events[e - n : e]][-max_length:])
    width = max(1, *(len(row) for row in expected))
    padded = [row + [PAD] * (width - len(row)) for row in expected]

    built = build_history(events, end, available, max_length)
    assert built.dtype == np.int64
    assert built.tolist() == padded


def test_a_long_history_keeps_its_newest_events_oldest_first() -> None:
    events = np.array([5, 6, 7, 8, 9])
    assert build_history(events, np.array([5]), np.array([5]), 3).tolist() == [[7, 8, 9]]


def test_a_row_never_reaches_into_the_session_before() -> None:
    events = np.array([1, 2, 3, 10, 20])
    assert build_history(events, np.array([5, 3]), np.array([2, 3]), 4).tolist() == [[10, 20, PAD], [1, 2, 3]]


def test_empty_histories_are_one_column_of_padding() -> None:
    events = np.array([1, 2, 3])
    assert build_history(events, np.array([0, 3]), np.array([0, 0]), 5).tolist() == [[PAD], [PAD]]
    assert build_history(events[:0], np.array([0]), np.array([0]), 5).tolist() == [[PAD]]
    assert build_history(events, np.empty(0, dtype=int), np.empty(0, dtype=int), 5).shape == (0, 1)


def test_several_columns_are_gathered_by_the_same_positions() -> None:
    items, hours = np.array([7, 8, 9, 4, 5]), np.array([10, 0, 12, 13, 14], dtype=np.uint8)
    position, valid = history_positions(np.array([3, 5, 0]), np.array([3, 1, 0]), 2)
    assert valid.tolist() == [[True, True], [True, False], [False, False]]
    assert gather(items, position, valid).tolist() == [[8, 9], [5, PAD], [PAD, PAD]]
    assert gather(hours, position, valid).tolist() == [[0, 12], [14, 0], [0, 0]]
    assert gather(hours, position, valid).dtype == np.int64


def test_a_memory_mapped_byte_column_works_too(tmp_path) -> None:
    np.save(tmp_path / "types.npy", np.array([3, 1, 255], dtype=np.uint8))
    types = np.load(tmp_path / "types.npy", mmap_mode="r")
    assert build_history(types, np.array([3, 1]), np.array([3, 1]), 3).tolist() == [[3, 1, 255], [3, 0, 0]]
