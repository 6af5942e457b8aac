"""Sessions: events that belong together, oldest first. Shapes: E events, S sessions."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError
from twotower.core.ragged import runs
from twotower.core.schema import EVENT_TYPE, ITEM_ID, SPLIT, TIMESTAMP, USER_ID
from twotower.data.preparation.clean import ORDINAL
from twotower.data.preparation.spill import KEY
from twotower.data.readers.source import PLACE

Array = npt.NDArray[Any]
MINUTE, SECOND = 60_000_000, 1_000_000  # microseconds
BOUNCE = "bounce"
DUPLICATE, ALONE = "repetition of an identical row", "only event of its session"


class Rule(NamedTuple):
    """What makes a session."""

    gap: int | None  # microseconds: a longer pause ends a session; None: never
    ordinal: bool  # timestamps are no times
    by_user: bool  # the key is a user
    bounce: tuple[int, int, int] | None  # a type left within so many microseconds becomes another type


@dataclass
class Counts:
    """What sorting the sessions found out, over all parts of the events."""

    dropped: dict[str, int] = field(default_factory=lambda: {DUPLICATE: 0, ALONE: 0})
    pauses: int = 0  # between two events of a key
    cut: int = 0  # pauses that end a session
    within_twice: int = 0  # of these, pauses of under twice the gap
    whole: int = 0  # pauses of half a day and less, within a second of a whole hour
    near: int = 0  # within 30 seconds of a whole hour, but not within one
    of_several_users: int = 0  # sessions
    backwards: int = 0  # places where a session goes back in the split column

    @property
    def cuts(self) -> dict[str, int]:
        """Of pauses, how many cut."""
        return {"pauses": self.pauses, "cut": self.cut, "within_twice": self.within_twice}


def session_rule(by_user: bool, unit: str, gap_minutes: float | None, bounce: tuple[int, int, int] | None) -> Rule:
    """The rule for events whose key is a user or a session.

    Raises UserError for a gap or a bounce that can't be told with these timestamps.
    """
    gap = None
    if by_user and gap_minutes is not None:
        if not isinstance(gap_minutes, int | float) or not gap_minutes > 0:
            raise UserError(f"preparation.session_gap_minutes={gap_minutes}; expected a number above 0, or null")
        if unit == ORDINAL:
            raise UserError(
                "the timestamps have no unit, so a gap in minutes can't cut sessions; give data.timestamp_unit, "
                "a session column, or preparation.session_gap_minutes=null for a session a user"
            )
        gap = round(gap_minutes * MINUTE)
    if bounce and unit == ORDINAL:
        raise UserError("the timestamps have no unit, so preparation.bounce can't be told; leave it out")
    return Rule(gap, unit == ORDINAL, by_user, bounce)


def describe_rule(by_user: bool, rule: Rule) -> str:
    """Where sessions come from, in words."""
    if not by_user:
        return "the session column"
    if rule.gap is None:
        return "all events of a user"
    return f"users' events, cut by gaps of over {rule.gap / MINUTE:g} minutes"


def sort_sessions(rows: pl.DataFrame, rule: Rule, counts: Counts) -> tuple[dict[str, Array], dict[str, Array]]:
    """Sort the rows of some keys into sessions, in the order in which they begin; add to `counts`.

    Within a session the order is by time; equal times keep their order in the file; where files differ, the place in
    the file decides, then the item and the type. So the result is the same for any names and order of files.
    Repetitions of a row and events alone in their session are dropped.

    Args:
        rows: [E] with KEY, TIMESTAMP in microseconds or ordinals, PLACE, ITEM_ID, EVENT_TYPE, and where there are any
            SPLIT, USER_ID and features; all of them numbers.

    Returns:
        Columns [E] of the events, without KEY, PLACE and SPLIT, in milliseconds or ordinals; and columns [S] of the
        sessions: start, end, length, where there are any user (0: not known) and, with SPLIT, train, validation and
        test: how many events have that label.
    """
    by = (KEY, TIMESTAMP, PLACE, ITEM_ID, EVENT_TYPE)
    rest = [name for name in rows.columns if name not in (*by, USER_ID)]  # a user's number is random
    rows = _drop_repetitions(rows.sort(*by, *rest), counts)
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
    counts.dropped[ALONE] += int((length == 1).sum())
    begin, length = begin[length > 1], length[length > 1]
    scale = 1 if rule.ordinal else 1000  # the order within a session is settled; milliseconds are enough from here
    order = np.argsort(time[begin] // scale, kind="stable")
    begin, length = begin[order], length[order]
    take = runs(begin, length)
    starts = np.cumsum(length) - length
    columns = {name: rows[name].to_numpy()[take] for name in rows.columns if name not in (KEY, PLACE, SPLIT)}
    if rule.bounce:
        columns[EVENT_TYPE] = _bounced(columns[EVENT_TYPE], columns[TIMESTAMP], starts, rule.bounce)
    columns[TIMESTAMP] = columns[TIMESTAMP] // scale
    time = columns[TIMESTAMP]
    sessions = {"start": time[starts], "end": time[starts + length - 1], "length": length}
    if USER_ID in columns and len(length):
        user = columns[USER_ID]  # 0: not known; a visit may begin before its user is
        least = np.minimum.reduceat(np.where(user == 0, np.iinfo(user.dtype).max, user), starts)
        counts.of_several_users += int((least < np.maximum.reduceat(user, starts)).sum())
        known = np.where(user == 0, np.repeat(starts, length), np.arange(len(user)))
        sessions[USER_ID] = user[np.maximum.reduceat(known, starts)]  # the last one
    if rule.by_user:
        sessions[USER_ID] = key[begin]
    if SPLIT in rows.columns:
        label = rows[SPLIT].to_numpy()[take]
        inside = np.ones(len(label), dtype=bool)
        inside[starts] = False
        counts.backwards += int(((np.diff(label.astype(np.int8), prepend=0) < 0) & inside).sum())
        names = ("train", "validation", "test")
        of = (
            {n: np.add.reduceat(label == i, starts, dtype=np.int32) for i, n in enumerate(names)} if len(starts) else {}
        )
        sessions |= of or {name: length for name in names}
    return columns, sessions


def _drop_repetitions(rows: pl.DataFrame, counts: Counts) -> pl.DataFrame:
    """Of identical rows the first stays; only rows that share key and time are compared."""
    same = (pl.col(KEY) == pl.col(KEY).shift(1)) & (pl.col(TIMESTAMP) == pl.col(TIMESTAMP).shift(1))
    same = same.fill_null(False)
    tied = rows.select(same | same.shift(-1, fill_value=False)).to_series().arg_true()
    if len(tied) == 0:
        return rows
    repeated = rows[tied].drop(PLACE).select(~pl.struct(pl.all()).is_first_distinct()).to_series()
    keep = np.ones(rows.height, dtype=bool)
    keep[tied.filter(repeated).to_numpy()] = False
    counts.dropped[DUPLICATE] += int(repeated.sum())
    return rows.filter(pl.Series(keep)) if repeated.any() else rows


def returning(user: Array, start: Array) -> Array:
    """[S] uint8: 2 where the user [S] has a session that begins earlier, 1 where not, 0 where no user is known (0)."""
    order = np.lexsort((start, user))
    user, start = user[order], start[order]
    first = np.flatnonzero(np.diff(user, prepend=~user[:1]))
    first_start = np.repeat(start[first], np.diff(first, append=len(user)))
    result = np.zeros(len(user), dtype=np.uint8)
    result[order] = np.where(user == 0, 0, 1 + (start > first_start))
    return result


def _count_pauses(pause: Array, gap: int | None, counts: Counts) -> None:
    counts.pauses += len(pause)
    if gap is not None:
        counts.cut += int((pause > gap).sum())
        counts.within_twice += int(((pause > gap) & (pause < 2 * gap)).sum())
    short = pause[(pause > 59.9 * MINUTE) & (pause < 14.5 * 60 * MINUTE)]
    beside = np.abs((short + 30 * MINUTE) % (60 * MINUTE) - 30 * MINUTE)
    counts.whole += int((beside <= SECOND).sum())
    counts.near += int(((beside > SECOND) & (beside <= 30 * SECOND)).sum())


def _bounced(event_type: Array, time: Array, starts: Array, bounce: tuple[int, int, int]) -> Array:
    """The type of events that another one followed within the session and the limit."""
    base, limit, becomes = bounce
    left = np.zeros(len(time), dtype=bool)
    left[:-1] = np.diff(time) < limit
    left[starts[1:] - 1] = False
    return np.where(left & (event_type == base), becomes, event_type).astype(event_type.dtype)
