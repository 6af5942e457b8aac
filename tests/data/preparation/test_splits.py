"""Which events train, validate and test: cases worked by hand."""

import itertools

import numpy as np
import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.splits import LABELS, Sessions, Split, leave_one_out, predefined, read_labels, temporal


def sessions(offsets: list[int], time: list[int], labels: list[str] | None = None) -> Sessions:
    """What a split sees of sessions that lie one after another."""
    bounds = np.array(offsets)
    labelled = None
    if labels is not None:
        code = np.array([LABELS[label.lower()] for label in labels])
        rows = [np.bincount(code[a:b], minlength=3) for a, b in itertools.pairwise(offsets)]
        labelled = np.array(rows)
    return Sessions(np.diff(bounds), np.array(time)[bounds[1:] - 1], labelled)


def parts(split: Split, offsets: list[int]) -> list[str]:
    """One word a session, a letter an event: r train, v validation, t test."""
    counts = zip(np.diff(offsets), split.train, split.validation, strict=True)
    return ["r" * a + "v" * b + "t" * (n - a - b) for n, a, b in counts]


def test_temporal_takes_the_sessions_that_end_last() -> None:
    offsets, time = [0, 2, 4, 6, 8], [10, 90, 20, 30, 50, 60, 5, 70]  # ends 90, 30, 60, 70
    split = temporal(sessions(offsets, time), test_fraction=0.25, validation_fraction=0.34)
    assert parts(split, offsets) == ["tt", "rr", "rr", "vv"]
    assert split.facts == {"kind": "temporal", "test_start": 90, "validation_start": 70}


def test_temporal_keeps_sessions_of_one_moment_together() -> None:
    offsets = list(range(0, 22, 2))
    ends = [1, 2, 3, 4, 5, 5, 8, 8, 8, 8]
    time = np.repeat(ends, 2)
    split = temporal(sessions(offsets, time.tolist()), test_fraction=0.1, validation_fraction=0.2)
    # One of ten is wanted for the test, and four end at the last moment; one of the other six for
    # validation, and two tie.
    assert parts(split, offsets) == ["rr"] * 4 + ["vv"] * 2 + ["tt"] * 4


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.45])
def test_temporal_takes_the_stated_share(fraction: float) -> None:
    """Exactly, although 1 - fraction is no binary number."""
    log = sessions(list(range(0, 2002, 2)), list(range(2000)))
    split = temporal(log, test_fraction=fraction, validation_fraction=0.5)
    assert (split.train + split.validation == 0).sum() == round(1000 * fraction)


def test_temporal_may_test_the_last_days() -> None:
    day = 86_400_000
    offsets, time = [0, 2, 4, 6, 8, 10], [0, 3 * day, 0, day, 1, 2 * day, 2, day + 1, 4, 5]
    log = sessions(offsets, time)
    split = temporal(log, test_fraction=0.9, validation_fraction=0.5, test_days=2)
    assert parts(split, offsets) == ["tt", "vv", "tt", "tt", "rr"]  # one ends two days before the last, to the ms
    assert split.facts["test_start"] == day + 1
    for days in (0, -1, "two", True):
        with pytest.raises(UserError, match=f"test_days={days}; expected a number of days above 0"):
            temporal(log, 0.1, 0.5, test_days=days)  # type: ignore[arg-type] # that is the test
    with pytest.raises(UserError, match="all 5 sessions end in these days"):
        temporal(log, 0.1, 0.5, test_days=9)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([1, 5, 2, 5, 3, 5], "of 3 sessions none ends before the test window"),
        ([1, 4, 2, 4, 3, 5], "of 2 sessions none ends before the validation window"),
    ],
)
def test_temporal_needs_different_ends(time: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        temporal(sessions([0, 2, 4, 6], time), test_fraction=0.3, validation_fraction=0.3)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), "a tenth", None])
def test_fractions_are_between_0_and_1(fraction: float) -> None:
    log = sessions([0, 2, 4, 6, 8], list(range(8)), ["train"] * 8)
    with pytest.raises(UserError, match=r"split.test_fraction=.*; expected a number between 0 and 1"):
        temporal(log, test_fraction=fraction, validation_fraction=0.1)
    with pytest.raises(UserError, match=r"split.validation_fraction=.*; expected a number between 0 and 1"):
        predefined(log, validation_fraction=fraction)


def test_predefined_follows_the_column() -> None:
    offsets = [0, 3, 5, 7]
    labels = ["train", "Valid", "TEST", "training", "train", "validation", "val"]
    split = predefined(sessions(offsets, list(range(7)), labels), validation_fraction=0.5)
    assert parts(split, offsets) == ["rvt", "rr", "vv"]
    assert split.facts == {"kind": "predefined"}


def test_predefined_cuts_validation_from_the_latest_training_sessions() -> None:
    offsets = [0, 2, 4, 6, 8, 10]
    labels = ["train"] * 2 + ["test"] * 2 + ["train"] * 4 + ["train", "test"]
    time = [1, 50, 60, 70, 1, 2, 3, 4, 80, 90]
    split = predefined(sessions(offsets, time, labels), validation_fraction=0.4)
    # Of the sessions that only train (ends 50, 2, 4) the latest validates; the last one goes on to the test.
    assert parts(split, offsets) == ["vv", "tt", "rr", "rr", "rt"]
    assert split.facts["validation_start"] == 50


def test_predefined_errors() -> None:
    with pytest.raises(UserError, match=r"needs a split column: data\.columns\.split=NAME"):
        predefined(sessions([0, 2, 4], [0, 1, 2, 3]), validation_fraction=0.5)
    with pytest.raises(UserError, match="nothing is left to train on"):
        predefined(sessions([0, 2, 4], [0, 1, 2, 3], ["test"] * 4), validation_fraction=0.5)


def test_labels_are_read_in_any_case() -> None:
    assert read_labels(pl.Series(["train", "Valid", "TEST", "training", "val"])).to_list() == [0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="holds 'holdout'; expected train, validation or test"):
        read_labels(pl.Series(["train", "holdout"]))


def test_leave_one_out() -> None:
    offsets = [0, 1, 3, 6, 10]
    assert parts(leave_one_out(sessions(offsets, list(range(10)))), offsets) == ["r", "rr", "rvt", "rrvt"]
