"""Sessions: events that belong together, oldest first. Shapes: E events, S sessions."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.ragged import ranges
from twotower.core.schema import DUPLICATE_ROW, EVENT_TYPE, ITEM_ID, ORDINAL, SINGLE_EVENT, SPLIT, TIMESTAMP, USER_ID
from twotower.data.preparation.bounces import SECOND, BounceRule, mark_bounces
from twotower.data.preparation.duplicates import drop_duplicate_rows
from twotower.data.preparation.spill import KEY
from twotower.data.preparation.splits import PARTS
from twotower.data.readers.source import PLACE

MINUTE = 60 * SECOND  # in microseconds
MICROSECOND = "microsecond"  # of an event, within its millisecond


class SessionRule(NamedTuple):
    """How rows become sessions.

    >>> session_rule(by_user=True, unit="s", gap_minutes=30, bounce=None).description
    "users' events, cut by gaps of over 30 minutes"
    """

    gap: int | None  # microseconds: a longer pause ends a session; None: never
    ordinal: bool  # timestamps are ordinals
    by_user: bool  # the key of a row is its user, not its session
    bounce: BounceRule | None

    @property
    def description(self) -> str:
        """Where sessions come from, in words."""
        if not self.by_user:
            return "the session column"
        if self.gap is None:
            return "all events of a user"
        return f"users' events, cut by gaps of over {self.gap / MINUTE:g} minutes"


@dataclass
class SessionCounts:
    """Counts made while sessions are formed, over all partitions.

    >>> SessionCounts(pauses=9, cut=2, within_twice=1).cuts
    {'pauses': 9, 'cut': 2, 'within_twice': 1}
    """

    dropped: dict[str, int] = field(default_factory=lambda: {DUPLICATE_ROW: 0, SINGLE_EVENT: 0})
    pauses: int = 0  # between two events of a key
    cut: int = 0  # pauses that end a session
    within_twice: int = 0  # of these, pauses shorter than twice the gap
    whole: int = 0  # pauses of half a day and less, within a second of a whole hour
    near: int = 0  # within 30 seconds of a whole hour, but not within one
    of_several_users: int = 0  # sessions
    backwards: int = 0  # places where a session goes back in the split column

    def add(self, other: "SessionCounts", sign: int = 1) -> None:
        """Add the counts of other keys; with `sign` -1 take them off."""
        for name, count in vars(other).items():
            if name == "dropped":
                for reason, rows in count.items():
                    self.dropped[reason] += sign * rows
            else:
                setattr(self, name, getattr(self, name) + sign * count)

    @property
    def cuts(self) -> dict[str, int]:
        """Pauses, and how many of them cut."""
        return {"pauses": self.pauses, "cut": self.cut, "within_twice": self.within_twice}


def session_rule(by_user: bool, unit: str, gap_minutes: float | None, bounce: BounceRule | None) -> SessionRule:
    """Return the rule for events whose key is a user or a session.

    Raises UserError for a gap or a bounce that these timestamps do not allow.
    """
    gap = None
    if by_user and gap_minutes is not None:
        if not isinstance(gap_minutes, int | float) or not gap_minutes > 0:
            raise UserError(f"preparation.session_gap_minutes={gap_minutes}; expected a number above 0, or null")
        if unit == ORDINAL:
            raise UserError(
                "the timestamps have no unit, so a gap in minutes can't cut sessions; give data.timestamp_unit, "
                "a session column, or preparation.session_gap_minutes=null for one session per user"
            )
        gap = round(gap_minutes * MINUTE)
    if bounce and unit == ORDINAL:
        raise UserError("preparation.bounce: the timestamps have no unit, so no event is left within seconds")
    return SessionRule(gap, unit == ORDINAL, by_user, bounce)


def sort_sessions(
    rows: pl.DataFrame, rule: SessionRule, counts: SessionCounts, keep: bool = False
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Sort the rows of some keys into sessions, in the order of their first events; add to `counts`.

    Within a session the order is by time; equal times keep their order in the file; where files differ, the place in
    the file decides, then the item and the type. So the result is the same for any names and order of files.
    Duplicate rows and sessions of one event are dropped.

    Args:
        rows: [E] integers: KEY, TIMESTAMP in microseconds or ordinals, PLACE, ITEM_ID, EVENT_TYPE, and where there are
            any SPLIT, USER_ID (0: unknown) and features.
        keep: also what the same keys are sorted by again, once there are more rows of them: single events, after the
            sessions; PLACE, SPLIT and MICROSECOND of the events; KEY of the sessions.

    Returns:
        Columns [E] of the events, without KEY, PLACE and SPLIT, in milliseconds or ordinals; and columns [S] of the
        sessions: start, end, length, where there are any user (0: unknown) and, with SPLIT, train, validation and
        test: how many events have that label.
    """
    by = (KEY, TIMESTAMP, PLACE, ITEM_ID, EVENT_TYPE)
    rest = [name for name in rows.columns if name not in (*by, USER_ID)]  # hashes of users are random
    rows, duplicates = drop_duplicate_rows(rows.sort(*by, *rest))
    counts.dropped[DUPLICATE_ROW] += duplicates
    begin, length = _cut_sessions(rows, rule, counts, keep)
    take, starts = ranges(begin, length), np.cumsum(length) - length
    left_out = (KEY,) if keep else (KEY, PLACE, SPLIT)
    events = {name: rows[name].to_numpy()[take] for name in rows.columns if name not in left_out}
    if rule.bounce:
        events[EVENT_TYPE] = mark_bounces(events[EVENT_TYPE], events[TIMESTAMP], starts, rule.bounce)
    exact = events[TIMESTAMP]
    time = events[TIMESTAMP] = exact // _scale(rule)
    sessions = {"start": time[starts], "end": time[starts + length - 1], "length": length}
    if keep:
        if not rule.ordinal:
            events[MICROSECOND] = (exact - time * _scale(rule)).astype(np.uint16)
        sessions[KEY] = rows[KEY].to_numpy()[begin]
    if rule.by_user:
        sessions[USER_ID] = rows[KEY].to_numpy()[begin]
    elif USER_ID in events:
        sessions[USER_ID] = _last_known_user(events[USER_ID], starts, length, counts)
    if SPLIT in rows.columns:
        sessions |= _count_labels(rows[SPLIT].to_numpy()[take], starts, counts)
    return events, sessions


def _scale(rule: SessionRule) -> int:
    """Microseconds order the events of a session; from then on milliseconds are enough."""
    return 1 if rule.ordinal else 1000


def _cut_sessions(rows: pl.DataFrame, rule: SessionRule, counts: SessionCounts, keep: bool) -> tuple[Array, Array]:
    """Return the first row [S] and the length [S] of each session of two or more events, by time of the first event.

    With `keep` those of one event follow.
    """
    key, time = rows[KEY].to_numpy(), rows[TIMESTAMP].to_numpy()
    first = np.ones(len(key), dtype=bool)
    first[1:] = key[1:] != key[:-1]
    pause = np.diff(time, prepend=time[:1])
    if not rule.ordinal:
        _count_pauses(pause[~first], rule.gap, counts)
    if rule.gap is not None:
        first |= pause > rule.gap
    begin = np.flatnonzero(first)
    length = np.diff(begin, append=len(key))
    several = np.flatnonzero(length > 1)
    single = np.flatnonzero(length == 1)
    counts.dropped[SINGLE_EVENT] += len(single)
    order = several[np.argsort(time[begin[several]] // _scale(rule), kind="stable")]
    if keep:
        order = np.concatenate([order, single])
    return begin[order], length[order]


def _last_known_user(user: Array, starts: Array, length: Array, counts: SessionCounts) -> Array:
    """Return the last user [S] of each session that is not 0 (unknown): a visit may begin before a login."""
    least = np.minimum.reduceat(np.where(user == 0, np.iinfo(user.dtype).max, user), starts)
    counts.of_several_users += int((least < np.maximum.reduceat(user, starts)).sum())
    known = np.where(user == 0, np.repeat(starts, length), np.arange(len(user)))
    last: Array = user[np.maximum.reduceat(known, starts)]
    return last


def _count_labels(label: Array, starts: Array, counts: SessionCounts) -> dict[str, Array]:
    """Return for each part how many events [S] of a session the split column gives to it."""
    inside = np.ones(len(label), dtype=bool)
    inside[starts] = False
    counts.backwards += int(((np.diff(label.astype(np.int8), prepend=0) < 0) & inside).sum())
    return {name: np.add.reduceat(label == code, starts, dtype=np.int32) for code, name in enumerate(PARTS)}


def returning_users(user: Array, start: Array) -> Array:
    """Return [S] uint8: 1 for the first session of a user, 2 for later ones, 0 for the unknown user 0.

    Args:
        user: [S] hashes.
        start: [S] time of the first event; of sessions that start together none is later.
    """
    order = np.lexsort((start, user))
    user, start = user[order], start[order]
    first = np.flatnonzero(np.diff(user, prepend=~user[:1]))
    first_start = np.repeat(start[first], np.diff(first, append=len(user)))
    result = np.zeros(len(user), dtype=np.uint8)
    result[order] = np.where(user == 0, 0, 1 + (start > first_start))
    return result


def _count_pauses(pause: Array, gap: int | None, counts: SessionCounts) -> None:
    counts.pauses += len(pause)
    if gap is not None:
        counts.cut += int((pause > gap).sum())
        counts.within_twice += int(((pause > gap) & (pause < 2 * gap)).sum())
    short = pause[(pause > 59.9 * MINUTE) & (pause < 14.5 * 60 * MINUTE)]
    beside = np.abs((short + 30 * MINUTE) % (60 * MINUTE) - 30 * MINUTE)
    counts.whole += int((beside <= SECOND).sum())
    counts.near += int(((beside > SECOND) & (beside <= 30 * SECOND)).sum())
