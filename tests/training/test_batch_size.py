"""The batch size that follows from the data."""

import numpy as np
import pytest

from twotower.training.batch_size import batch_size


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(0, 512), (153_600, 512), (307_199, 512), (307_200, 1024), (630_000, 2048), (10**9, 8192)],
)
def test_an_epoch_has_300_steps_or_more_where_the_smallest_batch_allows_it(targets: int, expected: int) -> None:
    size = batch_size(np.array([targets + 1, 1, 0]))  # sessions of one event, or of none, have no target
    assert size == expected
    assert size == 512 or targets / size >= 300
    assert size == 8192 or targets / (2 * size) < 300
