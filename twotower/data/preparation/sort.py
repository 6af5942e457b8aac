"""Second pass: rows become sessions on disk, which are read in blocks: as they lie there, or by time of first event.

Shapes: E events, S sessions, P partitions; of one block: e events, s sessions.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.ragged import ranges
from twotower.core.schema import ITEM_ID, RETURNING, TIMESTAMP, USER_ID
from twotower.data.preparation.sessionize import SessionCounts, SessionRule, returning_users, sort_sessions
from twotower.data.preparation.spill import ArrayFile, Partitions, prefetched
from twotower.data.preparation.splits import PARTS, TEST, TRAIN, VALIDATION, Sessions, Split, require_targets

TIMES_AT_ONCE = 1 << 21  # timestamps that a split reads


class SortedSessions(NamedTuple):
    """Sessions on disk, partition after partition; within a partition by time of the first event."""

    columns: dict[str, ArrayFile]  # [E] item rank, event type, time, ranks of features
    start: Array  # [S] time of the first event
    returning: Array  # [S] see schema.ARRAYS
    offsets: Array  # [S + 1] events offsets[s]:offsets[s + 1] are those of session s
    bounds: Array  # [P + 1] sessions bounds[p]:bounds[p + 1] are those of partition p
    split: Split
    counts: SessionCounts


class Block(NamedTuple):
    """All events of some sessions.

    >>> block = Block({"item_id": np.array([4, 5, 4])}, np.array([True, False, True]), np.array([TRAIN, TRAIN, TEST]))
    >>> block.columns["item_id"][block.part == TEST]
    array([4])
    """

    columns: dict[str, Array]  # [e] each; RETURNING has one value for all events of a session
    first: Array  # [e] True for the first event of a session
    part: Array  # [e] TRAIN, VALIDATION or TEST


def sort_partitions(
    partitions: Partitions,
    rows: int,
    work: Path,
    rank_of_code: Mapping[str, Array],
    rule: SessionRule,
    split: Callable[[Sessions], Split],
) -> SortedSessions:
    """Sort the rows of each partition into sessions, write these to the directory `work`, and split them.

    Args:
        rows: about how many there are, for the progress bar.
        rank_of_code: column -> [codes + 1] the rank that replaces each code.

    Raises:
        UserError: no session has two events, or one goes back in the split column.
    """
    counts = SessionCounts()
    columns: dict[str, ArrayFile] = {}
    tables: dict[str, list[Array]] = {}
    bounds = [0]
    with tqdm(total=rows, desc="sorting sessions", unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        frames = (
            frame.with_columns(pl.Series(name, lut[frame[name].to_numpy()]) for name, lut in rank_of_code.items())
            for frame in partitions.take_all()
        )
        for events, sessions in prefetched(sort_sessions(frame, rule, counts) for frame in frames):
            for name, array in events.items():
                if name not in columns:
                    columns[name] = ArrayFile(work / f"{name}.npy", array.dtype.str)
                columns[name].append(array)
            if rule.by_user:  # all sessions of a user are in this partition
                sessions[RETURNING] = returning_users(sessions.pop(USER_ID), sessions["start"])
            for name, array in sessions.items():
                tables.setdefault(name, []).append(array)
            bounds.append(bounds[-1] + len(sessions["length"]))
            bar.update(len(events[ITEM_ID]))
    for file in columns.values():
        file.close()
    table = {name: np.concatenate(arrays) for name, arrays in tables.items()}
    _require_sessions(len(table["start"]), counts, rule)
    labelled = np.stack([table[part] for part in PARTS], axis=1) if PARTS[TRAIN] in table else None
    offsets = np.concatenate([[0], np.cumsum(table["length"], dtype=np.int64)])
    if RETURNING not in table:
        user = table.pop(USER_ID) if USER_ID in table else np.zeros(len(table["start"]), dtype=np.uint8)
        table[RETURNING] = returning_users(user, table["start"])

    def times() -> Iterator[Array]:
        return (columns[TIMESTAMP].read(*span) for span in pairwise(_cuts(offsets, TIMES_AT_ONCE)))

    parts_of_sessions = split(Sessions(table["length"], times, labelled, timed=not rule.ordinal))
    require_targets(parts_of_sessions, table["length"])
    return SortedSessions(
        columns, table["start"], table[RETURNING], offsets, np.array(bounds), parts_of_sessions, counts
    )


def _require_sessions(sessions: int, counts: SessionCounts, rule: SessionRule) -> None:
    if sessions == 0:
        raise UserError(
            f"each session has one event, so there is no next item to learn (sessions: {rule.description}); "
            "is it the right session column, or is preparation.session_gap_minutes too small?"
        )
    if counts.backwards:
        raise UserError(
            f"in {counts.backwards:,} places a session goes back in the split column, as from test to train; "
            "expected train, then validation, then test. Are the session and time columns right?"
        )


def blocks(sessions: SortedSessions, rows: int) -> Iterator[Block]:
    """Yield all sessions as they lie on disk, about `rows` events at a time."""
    for low, high in pairwise(np.searchsorted(sessions.offsets, _cuts(sessions.offsets, rows)).tolist()):
        yield _read_block(sessions, [(low, high)])


def _cuts(offsets: Array, rows: int) -> list[int]:
    """Return offsets [S + 1] of sessions that are about `rows` events apart, the first and the last included.

    >>> _cuts(np.array([0, 2, 5, 6, 9]), rows=4)
    [0, 5, 9]
    """
    marks = np.searchsorted(offsets, np.arange(rows, offsets[-1], rows))
    return [int(offset) for offset in np.unique(offsets[[0, *marks, -1]])]


def blocks_by_start(sessions: SortedSessions, rows: int) -> Iterator[Block]:
    """Yield all sessions by time of their first event, about `rows` events at a time.

    Sessions that start together are ordered by their content, so that the order tells nothing about users.
    """
    order = np.argsort(sessions.start, kind="stable")
    total = np.cumsum(np.diff(sessions.offsets)[order])
    edges = np.unique(sessions.start[order[np.searchsorted(total, np.arange(rows, total[-1], rows))]])
    del order, total
    cuts = [
        np.concatenate([[low], low + np.searchsorted(sessions.start[low:high], edges), [high]])
        for low, high in pairwise(sessions.bounds.tolist())
    ]
    for number in range(len(edges) + 1):
        yield _sorted_by_start(_read_block(sessions, [(cut[number], cut[number + 1]) for cut in cuts]))


def _read_block(sessions: SortedSessions, spans: list[tuple[int, int]]) -> Block:
    """Read the sessions low .. high - 1 of each span."""
    rows = [(int(sessions.offsets[low]), int(sessions.offsets[high])) for low, high in spans]
    columns = {name: np.concatenate([file.read(*span) for span in rows]) for name, file in sessions.columns.items()}
    session = np.concatenate([np.arange(low, high) for low, high in spans])
    length = sessions.offsets[session + 1] - sessions.offsets[session]
    columns[RETURNING] = np.repeat(sessions.returning[session], length)
    first = np.zeros(length.sum(), dtype=bool)
    first[np.cumsum(length) - length] = True
    return Block(columns, first, parts(length, sessions.split.train[session], sessions.split.validation[session]))


def parts(length: Array, train: Array, validation: Array) -> Array:
    """Return the part [e] of each event, from the number of events [s] of a session, and those in its first two parts.

    >>> parts(np.array([4, 2]), train=np.array([1, 2]), validation=np.array([1, 0]))
    array([0, 1, 2, 2, 0, 0], dtype=int8)
    """
    position = ranges(np.zeros_like(length), length)
    tested = position >= np.repeat(train + validation, length)
    return np.where(position < np.repeat(train, length), TRAIN, np.where(tested, TEST, VALIDATION)).astype(np.int8)


def _sorted_by_start(block: Block) -> Block:
    """Sort the sessions of a block by start; those that start together by a hash of their events."""
    begin = np.flatnonzero(block.first)
    length = np.diff(begin, append=len(block.first))
    start = block.columns[TIMESTAMP][begin]
    order = np.argsort(start, kind="stable")
    tie = np.flatnonzero(np.diff(start[order]) == 0)
    if len(tie):
        places = np.union1d(tie, tie + 1)
        tied = order[places]
        content = _content_hashes(block, begin[tied], length[tied])
        order[places] = tied[np.lexsort((content, length[tied], start[tied]))]
    take = ranges(begin[order], length[order])
    return Block({n: c[take] for n, c in block.columns.items()}, block.first[take], block.part[take])


def _content_hashes(block: Block, begin: Array, length: Array) -> Array:
    """Return a hash [s] of the events of each session."""
    take = ranges(begin, length)
    columns = [column for name, column in sorted(block.columns.items()) if name != USER_ID]  # which holds random hashes
    number = np.zeros(len(take), dtype=np.uint64)
    for column in [*columns, block.part]:
        number = (number ^ _mix_bits(column[take])) * np.uint64(0x9E3779B97F4A7C15)
    position = ranges(np.zeros_like(length), length).astype(np.uint64)
    return np.asarray(np.add.reduceat(_mix_bits(number + position), np.cumsum(length) - length))


def _mix_bits(column: Array) -> Array:
    """Hash integers with the finalizer of MurmurHash3."""
    bits = column.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(33))
