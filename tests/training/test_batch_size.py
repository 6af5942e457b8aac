"""The batch size that follows from the data."""

from typing import Any

import pytest

from twotower.training.batch_size import batch_size, positions_per_step


@pytest.mark.parametrize(
    ("positions", "expected"),
    [(0, 128), (40_960, 128), (81_919, 128), (81_920, 256), (650_000, 1024), (10**9, 8192)],
)
def test_an_epoch_has_320_steps_or_more_where_the_smallest_batch_allows_it(positions: int, expected: int) -> None:
    size = positions_per_step(positions)
    assert size == expected
    assert size == 128 or positions / size >= 320
    assert size == 8192 or positions / (2 * size) < 320


def test_it_counts_the_rows_of_training_alone(make_prepared: Any) -> None:
    session = [1, 2] * 40  # 79 inputs: rows of 4 overlap by half, 39 of them
    prepared = make_prepared(
        [session] * 1000, num_items=2, train=[80] * 500 + [0] * 500, validation=[0] * 500 + [80] * 500
    )
    rows = 1 + -(-(79 - 4) // 2)
    assert batch_size(prepared, max_length=4) == positions_per_step(500 * (4 * (rows - 1) + 79 - 2 * (rows - 1)))
    assert batch_size(prepared, max_length=100) == positions_per_step(500 * 79)
