"""Which events train, validate and test: cases worked by hand."""

import itertools
import math

import numpy as np
import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.splits import (
    LABELS,
    Sessions,
    Split,
    leave_one_out,
    predefined,
    read_labels,
    require_targets,
    temporal,
)


def sessions(offsets: list[int], time: list[int], labels: list[str] | None = None) -> Sessions:
    """What a split sees of sessions that lie one after another; their times are read a session at a time."""
    bounds = np.array(offsets)
    labelled = None
    if labels is not None:
        code = np.array([LABELS[label.lower()] for label in labels])
        rows = [np.bincount(code[a:b], minlength=3) for a, b in itertools.pairwise(offsets)]
        labelled = np.array(rows)
    times = np.split(np.array(time), bounds[1:-1])
    ends = np.array(time)[bounds[:-1]], np.array(time)[bounds[1:] - 1]
    return Sessions(np.diff(bounds), *ends, lambda chosen: [times[session] for session in chosen], labelled)


def parts(split: Split, offsets: list[int]) -> list[str]:
    """One word a session, a letter an event: r train, v validation, t test."""
    counts = zip(np.diff(offsets), split.train, split.validation, strict=True)
    return ["r" * a + "v" * b + "t" * (n - a - b) for n, a, b in counts]


def test_temporal_cuts_sessions_where_the_windows_begin() -> None:
    offsets, time = [0, 3, 5, 8], [10, 55, 90, 20, 30, 50, 60, 99]
    split = temporal(sessions(offsets, time), test_fraction=0.25, validation_fraction=0.34)
    assert parts(split, offsets) == ["rvt", "rr", "rvt"]  # 99 and 90 test; 60 and 55 of the other six validate
    assert split.facts == {"kind": "temporal", "test_start": 90, "validation_start": 55}


def test_temporal_keeps_events_of_one_moment_together() -> None:
    offsets = [0, 5, 10]
    split = temporal(sessions(offsets, [1, 2, 3, 5, 8, 4, 5, 8, 8, 8]), test_fraction=0.1, validation_fraction=0.2)
    # One of ten is wanted for the test, and four are of the last moment; one of the other six validates, and two tie.
    assert parts(split, offsets) == ["rrrvt", "rvttt"]


@pytest.mark.parametrize("fraction", [0.05, 0.15, 0.3, 0.45])
@pytest.mark.parametrize("scale", [1, 999, 70_000_001])  # one pass over the times is enough, or not
def test_temporal_takes_the_stated_share(fraction: float, scale: int) -> None:
    """Exactly, although 1 - fraction is no binary number."""
    log = sessions(list(range(0, 2002, 2)), [time * scale for k in range(1000) for time in (k, k + 1000)])
    split = temporal(log, test_fraction=fraction, validation_fraction=0.5)
    assert (log.length - split.train - split.validation).sum() == round(2000 * fraction)
    assert split.facts["test_start"] == (2000 - round(2000 * fraction)) * scale


def start_by_loops(log: list[list[int]], fraction: float, before: float = math.inf) -> int:
    """Where the latest of the sessions that end `before` end; where half of those began earlier, the latest events."""
    whole = [times for times in log if times[-1] < before]
    log = [[time for time in times if time < before] for times in log]
    if whole:
        start = sorted(times[-1] for times in whole)[-max(1, round(len(whole) * fraction))]
        latest = [times for times in whole if times[-1] >= start]
        if len(latest) < len(whole) and sum(times[0] < start for times in latest) * 2 < len(latest):
            return start
    flat = sorted(time for times in log for time in times)
    return flat[-max(1, round(len(flat) * fraction))]


def test_visits_are_whole_where_most_lie_within_a_window() -> None:
    offsets, time = [0, 2, 4, 6, 8, 10, 12], [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51]
    split = temporal(sessions(offsets, time), test_fraction=0.5, validation_fraction=0.67)
    # Three of six sessions end from 31 on, one of which began before. Of the other three two end from 11 on, and half
    # of those began before: five of the seven events validate.
    assert parts(split, offsets) == ["rr", "vv", "vv", "vt", "tt", "tt"]
    assert split.facts == {"kind": "temporal", "test_start": 31, "validation_start": 10}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("span", [30, 10**7, 10**12])
@pytest.mark.parametrize("third", [False, True])  # split.test_days of a third of the log
def test_temporal_is_what_a_loop_over_the_events_gives(seed: int, span: int, third: bool) -> None:
    random = np.random.default_rng([seed, span])
    length = random.integers(1, 30, 12)
    offsets = [0, *np.cumsum(length).tolist()]
    log = [sorted(random.integers(0, span, n).tolist()) for n in length]
    flat = [time for session in log for time in session]
    days = span / 86_400_000 / 3 if third else None
    split = temporal(sessions(offsets, flat), test_fraction=0.2, validation_fraction=0.3, test_days=days)
    test_start = start_by_loops(log, 0.2) if days is None else max(flat) + 1 - round(days * 86_400_000)
    validation_start = start_by_loops(log, 0.3, test_start)
    assert split.facts == {"kind": "temporal", "test_start": test_start, "validation_start": validation_start}
    assert parts(split, offsets) == [
        "".join("t" if t >= test_start else "v" if t >= validation_start else "r" for t in times) for times in log
    ]


def test_temporal_may_test_the_last_days() -> None:
    day = 86_400_000
    offsets, time = [0, 2, 4, 6, 8, 10], [0, 3 * day, 0, day, 1, 2 * day, 2, day + 1, 4, 5]
    log = sessions(offsets, time)
    split = temporal(log, test_fraction=0.9, validation_fraction=0.5, test_days=2)
    assert parts(split, offsets) == ["rt", "rv", "rt", "vt", "vv"]  # one is two days before the last, to the ms
    assert split.facts["test_start"] == day + 1
    for days in (0, -1, "two", True):
        with pytest.raises(UserError, match=f"test_days={days}; expected a number of days above 0"):
            temporal(log, 0.1, 0.5, test_days=days)  # type: ignore[arg-type] # that is the test
    with pytest.raises(UserError, match="all events are of these days"):
        temporal(log, 0.1, 0.5, test_days=9)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([5, 5, 5, 5, 5, 5], "of 6 events none is before the test window"),
        ([4, 5, 4, 5, 4, 5], "of 3 events none is before the validation window"),
    ],
)
def test_temporal_needs_different_times(time: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        temporal(sessions([0, 2, 4, 6], time), test_fraction=0.3, validation_fraction=0.3)


@pytest.mark.parametrize(
    ("train", "validation", "length", "missing"),
    [
        ([1, 1], [1, 1], [3, 3], "train"),
        ([2, 0], [0, 1], [3, 2], "validation"),
        ([2, 2, 0], [0, 1, 0], [2, 3, 1], "test"),
        ([2, 0], [1, 2], [4, 2], None),
    ],
)
def test_each_part_needs_an_event_after_another(
    train: list[int], validation: list[int], length: list[int], missing: str | None
) -> None:
    split = Split(np.array(train), np.array(validation), {"kind": "temporal"})
    if missing is None:
        require_targets(split, np.array(length))
        return
    with pytest.raises(UserError, match=f"none of {missing} follows another one"):
        require_targets(split, np.array(length))


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


def test_predefined_cuts_validation_from_the_latest_training_events() -> None:
    offsets = [0, 2, 4, 6, 8, 11]
    labels = ["train"] * 2 + ["test"] * 2 + ["train"] * 4 + ["train", "train", "test"]
    time = [1, 50, 60, 70, 1, 2, 3, 4, 40, 80, 90]
    split = predefined(sessions(offsets, time, labels), validation_fraction=0.4)
    # Of the eight times that train (1, 50, 1, 2, 3, 4, 40, 80) the latest three validate.
    assert parts(split, offsets) == ["rv", "tt", "rr", "rr", "vvt"]
    assert split.facts["validation_start"] == 40


def test_predefined_errors() -> None:
    with pytest.raises(UserError, match=r"needs a split column: data\.columns\.split=NAME"):
        predefined(sessions([0, 2, 4], [0, 1, 2, 3]), validation_fraction=0.5)
    with pytest.raises(UserError, match="of 0 events none is before the validation window"):
        predefined(sessions([0, 2, 4], [0, 1, 2, 3], ["test"] * 4), validation_fraction=0.5)


def test_labels_are_read_in_any_case() -> None:
    assert read_labels(pl.Series(["train", "Valid", "TEST", "training", "val"])).to_list() == [0, 1, 2, 0, 1]
    with pytest.raises(UserError, match="holds 'holdout'; expected train, validation or test"):
        read_labels(pl.Series(["train", "holdout"]))


def test_leave_one_out() -> None:
    offsets = [0, 1, 3, 6, 10]
    assert parts(leave_one_out(sessions(offsets, list(range(10)))), offsets) == ["r", "rr", "rvt", "rrvt"]
