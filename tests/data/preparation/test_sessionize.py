"""Rows of some keys sorted into sessions: cases worked by hand."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.bounces import BounceRule
from twotower.data.preparation.sessionize import (
    SessionCounts,
    SessionRule,
    returning_users,
    session_rule,
    sort_sessions,
)

MINUTE = 60_000_000
BASE = 1_700_000_000_000_000


def rows(*events: tuple[Any, ...], extra: tuple[str, ...] = ()) -> pl.DataFrame:
    """Key, minute, place, item, type and further columns."""
    frame = pl.DataFrame(
        list(events), schema=["key", "timestamp", "place", "item_id", "event_type", *extra], orient="row"
    )
    return frame.with_columns((pl.col("timestamp") * MINUTE + BASE).cast(pl.Int64), pl.col("key").cast(pl.UInt64))


def items(columns: dict[str, Any], sessions: dict[str, Any]) -> list[list[int]]:
    return [part.tolist() for part in np.split(columns["item_id"], np.cumsum(sessions["length"])[:-1])]


def test_sessions_lie_by_their_beginning_and_events_by_time_place_item_and_type() -> None:
    counts = SessionCounts()
    columns, sessions = sort_sessions(
        rows(
            (9, 5, 0, 1, 1), (9, 4, 1, 2, 1),
            (7, 1, 8, 3, 2), (7, 1, 8, 3, 1), (7, 1, 8, 2, 9), (7, 1, 7, 9, 9), (7, 0.5, 99, 4, 1),
        ),
        SessionRule(None, False, False, None), counts,
    )  # fmt: skip
    assert items(columns, sessions) == [[4, 9, 2, 3, 3], [2, 1]]
    assert columns["event_type"].tolist() == [1, 9, 9, 1, 2, 1, 1]
    assert columns["timestamp"][-1] == (BASE + 5 * MINUTE) // 1000
    assert sessions["start"].tolist() == [BASE // 1000 + 30_000, BASE // 1000 + 240_000]
    assert set(columns) == {"timestamp", "item_id", "event_type"}


def test_duplicates_and_single_events_are_dropped() -> None:
    counts = SessionCounts()
    columns, sessions = sort_sessions(
        rows((1, 0, 0, 5, 1), (1, 0, 3, 5, 1), (1, 0, 1, 6, 1), (1, 0, 2, 5, 1), (2, 0, 4, 5, 1), (1, 1, 9, 5, 1)),
        SessionRule(None, False, False, None),
        counts,
    )
    assert items(columns, sessions) == [[5, 6, 5]]
    assert counts.dropped == {"duplicate of another row": 2, "only event of its session": 1}


def test_a_gap_cuts_and_is_counted() -> None:
    counts = SessionCounts()
    minutes = [0, 30, 61, 70, 140, 141, 201, 201.01]
    columns, sessions = sort_sessions(
        rows(*((1, m, i, i, 1) for i, m in enumerate(minutes)), (2, 500, 0, 8, 1), (2, 501, 1, 9, 1)),
        SessionRule(30 * MINUTE, False, True, None),
        counts,
    )
    assert items(columns, sessions) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert counts.cuts == {"pauses": 8, "cut": 3, "within_twice": 1}  # of 31, 70 and 60 minutes
    assert (counts.whole, counts.near) == (1, 0)  # that of 60 minutes


def test_pauses_near_a_whole_hour() -> None:
    counts = SessionCounts()
    pauses = [60, 60.4, 59.95, 120 + 1 / 60, 14 * 60, 15 * 60, 90, 60.6]
    minutes = np.cumsum([0, *pauses]).tolist()
    sort_sessions(
        rows(*((1, m, 0, i, 1) for i, m in enumerate(minutes))), SessionRule(None, False, False, None), counts
    )
    assert (counts.whole, counts.near) == (3, 2)


def test_users_and_labels() -> None:
    counts = SessionCounts()
    frame = rows(
        (1, 0, 0, 5, 1, 0, 70), (1, 1, 1, 6, 1, 2, 70), (1, 2, 2, 7, 1, 1, 0),
        (2, 0, 3, 5, 1, 0, 70), (2, 1, 4, 6, 1, 0, 80),
        extra=("split", "user_id"),
    ).with_columns(pl.col("split").cast(pl.UInt8), pl.col("user_id").cast(pl.UInt64))  # fmt: skip
    _, sessions = sort_sessions(frame, SessionRule(None, False, False, None), counts)
    assert [sessions[part].tolist() for part in ("train", "validation", "test")] == [[1, 2], [1, 0], [1, 0]]
    assert counts.backwards == 1  # from test to validation
    assert counts.of_several_users == 1  # 0 is nobody that is known
    assert sessions["user_id"].tolist() == [70, 80]  # the last one that is known


def test_only_the_first_session_of_a_user_is_new() -> None:
    user = np.array([5, 0, 5, 9, 5, 0, 2**64 - 1], dtype=np.uint64)
    start = np.array([30, 1, 10, 10, 10, 2, -4])
    assert returning_users(user, start).tolist() == [
        2,
        0,
        1,
        1,
        1,
        0,
        1,
    ]  # of sessions that begin together none was before
    assert returning_users(user[:0], start[:0]).tolist() == []


def test_what_is_left_soon_bounces() -> None:
    columns, _ = sort_sessions(
        rows(
            (1, 0, 0, 1, 3), (1, 0.04, 1, 2, 2), (1, 0.05, 2, 3, 3), (1, 9, 3, 4, 3), (2, 9, 0, 5, 3), (2, 10, 1, 6, 3)
        ),
        SessionRule(None, False, False, BounceRule(base=3, limit=3_000_000, bounce=1)),
        SessionCounts(),
    )
    assert columns["event_type"].tolist() == [1, 2, 3, 3, 3, 3]


def test_nothing_is_left() -> None:
    columns, sessions = sort_sessions(
        rows((1, 0, 0, 5, 1), (2, 0, 1, 6, 1)), SessionRule(None, False, False, BounceRule(1, 1, 2)), SessionCounts()
    )
    assert len(columns["item_id"]) == len(sessions["length"]) == 0


def test_rules() -> None:
    assert session_rule(True, "ms", 0.5, None) == SessionRule(MINUTE // 2, False, True, None)
    assert session_rule(False, "ordinal", 30, None) == SessionRule(None, True, False, None)
    assert session_rule(True, "s", 7.5, None).description == "users' events, cut by gaps of over 7.5 minutes"
    with pytest.raises(UserError, match=r"preparation\.bounce"):
        session_rule(False, "ordinal", None, BounceRule(1, 2, 3))
