"""Rows of the newest days and a sample of the others; what rows hold is tested with the loader."""

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY
from twotower.data.windows import Newest, Windows, newest_of, newest_windows


def windows_and_times(rows: int) -> tuple[Windows, np.ndarray]:
    """Rows of two events and a target; row r's target is at r hours, its history long before."""
    start = 3 * np.arange(rows)
    times = np.stack([np.zeros(rows), np.zeros(rows), np.arange(rows) * MS_PER_DAY / 24], axis=1).astype(np.int64)
    return Windows(start, np.full(rows, 2), np.zeros(rows, dtype=np.int64)), times.ravel()


def test_all_rows_of_the_newest_days_and_a_share_of_the_others() -> None:
    windows, times = windows_and_times(2400)
    kept = newest_windows(windows, times, Newest(10, 0.25), seed=3).start // 3
    newest = np.arange(2400 - 240, 2400)
    assert np.isin(newest, kept).all() and len(set(kept)) == len(kept) and (np.diff(kept) > 0).all()
    older = len(kept) - len(newest)
    assert abs(older - 0.25 * 2160) < 4 * np.sqrt(2160 * 0.25 * 0.75)
    assert np.array_equal(kept, newest_windows(windows, times, Newest(10, 0.25), seed=3).start // 3)
    assert not np.array_equal(kept, newest_windows(windows, times, Newest(10, 0.25), seed=4).start // 3)


def test_bounds_of_the_sample() -> None:
    windows, times = windows_and_times(100)
    assert newest_windows(windows, times, None, seed=0) is windows
    assert len(newest_windows(windows, times, Newest(1, 1.0), seed=0).start) == 100
    assert (newest_windows(windows, times, Newest(1, 0.0), seed=0).start // 3).tolist() == list(range(76, 100))
    nothing = Windows(*(column[:0] for column in windows))
    assert len(newest_windows(nothing, times, Newest(1, 0.5), seed=0).start) == 0


def test_days_need_times() -> None:
    assert newest_of(None, 0.1, is_timed=False) is None and newest_of(2, 0.5, is_timed=True) == Newest(2.0, 0.5)
    with pytest.raises(UserError, match=r"newest_days=2 needs times"):
        newest_of(2, 0.5, is_timed=False)
