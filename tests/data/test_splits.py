"""Which events train, validate and test: cases worked by hand."""

import numpy as np
import pytest

from twotower.data.splits import Split, leave_one_out, predefined, temporal
from twotower.errors import UserError


def parts(split: Split, offsets: list[int]) -> list[str]:
    """One word a session, a letter an event: r train, v validation, t test."""
    ends = zip(offsets[:-1], split.train_end, split.validation_end, offsets[1:], strict=True)
    return ["r" * (a - start) + "v" * (b - a) + "t" * (stop - b) for start, a, b, stop in ends]


def test_temporal_takes_the_sessions_that_end_last() -> None:
    offsets, time = [0, 2, 4, 6, 8], [10, 90, 20, 30, 50, 60, 5, 70]  # ends 90, 30, 60, 70
    split = temporal(np.array(offsets), np.array(time), None, test_fraction=0.25, validation_fraction=0.34)
    assert parts(split, offsets) == ["tt", "rr", "rr", "vv"]
    assert split.facts == {"kind": "temporal", "test_start": 90, "validation_start": 70}


def test_temporal_keeps_sessions_of_one_moment_together() -> None:
    offsets = list(range(0, 22, 2))
    ends = [1, 2, 3, 4, 5, 5, 8, 8, 8, 8]
    time = np.repeat(ends, 2)
    split = temporal(np.array(offsets), time, None, test_fraction=0.1, validation_fraction=0.2)
    # One of ten is wanted for the test, and four end at the last moment; one of the other six for
    # validation, and two tie.
    assert parts(split, offsets) == ["rr"] * 4 + ["vv"] * 2 + ["tt"] * 4


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.45])
def test_temporal_takes_the_stated_share(fraction: float) -> None:
    """Exactly, although 1 - fraction is no binary number."""
    offsets = np.arange(0, 2002, 2)
    split = temporal(offsets, np.arange(2000), None, test_fraction=fraction, validation_fraction=0.5)
    assert (split.validation_end == offsets[:-1]).sum() == round(1000 * fraction)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([1, 5, 2, 5, 3, 5], "of 3 sessions none ends before the test window"),
        ([1, 4, 2, 4, 3, 5], "of 2 sessions none ends before the validation window"),
    ],
)
def test_temporal_needs_different_ends(time: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        temporal(np.array([0, 2, 4, 6]), np.array(time), None, test_fraction=0.3, validation_fraction=0.3)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), "a tenth", None])
def test_fractions_are_between_0_and_1(fraction: float) -> None:
    time, offsets = np.arange(8), np.arange(0, 10, 2)
    with pytest.raises(UserError, match=r"split.test_fraction=.*; expected a number between 0 and 1"):
        temporal(offsets, time, None, test_fraction=fraction, validation_fraction=0.1)
    with pytest.raises(UserError, match=r"split.validation_fraction=.*; expected a number between 0 and 1"):
        predefined(offsets, time, np.array(["train"] * 8), validation_fraction=fraction)


def test_predefined_follows_the_column() -> None:
    offsets = [0, 3, 5, 7]
    labels = ["train", "Valid", "TEST", "training", "train", "validation", "val"]
    split = predefined(np.array(offsets), np.arange(7), np.array(labels, dtype=object), validation_fraction=0.5)
    assert parts(split, offsets) == ["rvt", "rr", "vv"]
    assert split.facts == {"kind": "predefined"}


def test_predefined_cuts_validation_from_the_latest_training_sessions() -> None:
    offsets = [0, 2, 4, 6, 8, 10]
    labels = ["train"] * 2 + ["test"] * 2 + ["train"] * 4 + ["train", "test"]
    time = np.array([1, 50, 60, 70, 1, 2, 3, 4, 80, 90])
    split = predefined(np.array(offsets), time, np.array(labels), validation_fraction=0.4)
    # Of the sessions that only train (ends 50, 2, 4) the latest validates; the last one goes on to the test.
    assert parts(split, offsets) == ["vv", "tt", "rr", "rr", "rt"]
    assert split.facts["validation_start"] == 50


def test_predefined_errors() -> None:
    offsets, time = np.array([0, 2, 4]), np.arange(4)

    def split(*labels: str) -> Split:
        return predefined(offsets, time, np.array(labels), validation_fraction=0.5)

    with pytest.raises(UserError, match=r"needs a split column: data\.columns\.split=NAME"):
        predefined(offsets, time, None, validation_fraction=0.5)
    with pytest.raises(UserError, match="holds 'holdout'; expected train, validation or test"):
        split("train", "holdout", "test", "test")
    with pytest.raises(UserError, match="in 1 places a session goes back"):
        split("test", "train", "test", "test")
    with pytest.raises(UserError, match="nothing is left to train on"):
        split("test", "test", "test", "test")


def test_leave_one_out() -> None:
    offsets = [0, 1, 3, 6, 10]
    assert parts(leave_one_out(np.array(offsets), np.arange(10), None), offsets) == ["r", "rr", "rvt", "rrvt"]
