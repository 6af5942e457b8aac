"""When a request asks."""

import datetime as dt
from typing import Any

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.serving.histories import KnownEvents
from twotower.serving.query_times import asked_at
from twotower.serving.unknown import Unknown

T = 1_700_000_000  # seconds
CODES = np.array([[3, T], [1, T + 60], [2, 0], [2, T + 5]])
EVENTS = KnownEvents(np.array([4, 7, 5, 4]), CODES, np.array([2, 0, 1, 1]))  # newest: T + 60, none, unknown, T + 5
INPUTS = ["event_type", "time"]
AT = dt.datetime(2023, 11, 14, 22, 13, 20, 999_000)  # T in UTC, rounded down


def moments(timestamp: Any, events: KnownEvents = EVENTS, strict: bool = False) -> tuple[Any, dict[str, int]]:
    unknown = Unknown(strict)
    found = asked_at(timestamp, events, INPUTS, True, unknown)
    assert found.item_index is events.item_index and found.codes is events.codes
    return None if found.now is None else found.now.tolist(), unknown.counts


def test_one_time_for_all_or_one_for_each_in_the_forms_of_events() -> None:
    later = (T + 90) * 1000 + 999
    assert moments(None) == (None, {})
    assert moments(later) == ([T + 90] * 4, {})
    assert moments(np.int64(later)) == moments(float(later)) == moments(later)
    assert moments(AT + dt.timedelta(seconds=90)) == moments(later)
    assert moments((AT + dt.timedelta(seconds=90)).replace(tzinfo=dt.UTC)) == moments(later)
    each = [later, None, AT, (T + 5) * 1000]
    assert moments(each) == moments(np.array(each, dtype=object)) == ([T + 90, 0, T, T + 5], {})
    assert moments(float("nan")) == ([0] * 4, {})
    nobody = KnownEvents(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    assert moments(later, nobody) == moments([], nobody) == ([], {})


def test_a_time_before_the_newest_event_is_counted_and_answered_as_at_that_event() -> None:
    assert moments((T + 5) * 1000) == ([0, T + 5, T + 5, T + 5], {"timestamps before the newest event": 1})
    early = [(T + second) * 1000 for second in (59, 0, 0, 4)]
    assert moments(early) == ([0, T, T, 0], {"timestamps before the newest event": 2})
    with pytest.raises(UserError, match=f"timestamps before the newest event: 2 of 4 known.*{early[0]}"):
        moments(early, strict=True)


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        ([T * 1000] * 3, "timestamp has 3 times for 4 histories; expected a datetime or milliseconds"),
        ("2023-11-14", "timestamp is '2023-11-14'; expected a datetime or milliseconds"),
        ({"a": 1}, "timestamp is"),
        (T, f"the request has the timestamp {T}; expected a datetime, or milliseconds since 1970"),
        (True, "the request has the timestamp True"),
        (["x"] * 4, "the request has the timestamp 'x'"),
    ],
)
def test_anything_else_is_refused(timestamp: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        moments(timestamp)


def test_a_model_without_a_time_of_the_query_is_not_given_one() -> None:
    with pytest.raises(UserError, match=r"no query time.*model\.query_time=false.*Leave it out"):
        asked_at(T * 1000, EVENTS, ["event_type"], False, Unknown())
    assert asked_at(None, EVENTS, [], False, Unknown()) is EVENTS
