"""Sorted sessions, read from disk in blocks: as they lie there, or by time of first event.

Shapes: E events, S sessions, P partitions; of one block: e events, s sessions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.ragged import ranges
from twotower.core.schema import RETURNING, TIMESTAMP, USER_ID
from twotower.data.preparation.sessionize import SessionCounts, SessionRule, returning_users
from twotower.data.preparation.sort import Segment
from twotower.data.preparation.spill import KEY, ArrayFile
from twotower.data.preparation.splits import PARTS, TEST, TRAIN, VALIDATION, Sessions, Split, require_targets

TIMES_AT_ONCE = 1 << 21  # timestamps that a split reads


class Rows(NamedTuple):
    """Rows of sessions in the files of segments, which are numbered through."""

    files: dict[str, list[ArrayFile]]  # codes of items, event types and features, and time, of each segment
    rank_of_code: Mapping[str, Array]  # column -> [codes + 1] the rank that replaces each code
    begin: Array  # [S] first row
    offsets: Array  # [S + 1] offsets[s + 1] - offsets[s] is the number of events of session s

    def read(self, names: Iterable[str], low: int, high: int) -> dict[str, Array]:
        """Return columns of the sessions low .. high - 1, with ranks for codes."""
        begin = int(self.begin[low]) if low < high else 0
        end = int(self.begin[high - 1] + self.offsets[high] - self.offsets[high - 1]) if low < high else 0
        take: Any = slice(None)
        if end - begin > self.offsets[high] - self.offsets[low]:  # rows of others are between them
            take = ranges(self.begin[low:high] - begin, np.diff(self.offsets[low : high + 1]))
        return {name: self._ranks(name, self._read(self.files[name], begin, end)[take]) for name in names}

    def read_chosen(self, name: str, chosen: Array) -> Array:
        """Return a column of some sessions [n], in ascending order."""
        rows = ranges(self.begin[chosen], self.offsets[chosen + 1] - self.offsets[chosen])
        ends = np.cumsum([0, *(file.length for file in self.files[name])])
        cuts = np.searchsorted(rows, ends)
        spans = zip(self.files[name], ends, cuts, cuts[1:], strict=False)
        return self._ranks(name, np.concatenate([file.array()[rows[a:b] - row] for file, row, a, b in spans if a < b]))

    def _ranks(self, name: str, values: Array) -> Array:
        return self.rank_of_code[name][values] if name in self.rank_of_code else values

    @staticmethod
    def _read(files: Sequence[ArrayFile], begin: int, end: int) -> Array:
        pieces, row = [np.zeros(0, files[0].dtype)], 0
        for file in files:
            first, last = max(begin - row, 0), min(end - row, file.length)
            if first < last:
                pieces.append(file.read(first, last))
            row += file.length
        return pieces[-1] if len(pieces) < 3 else np.concatenate(pieces)


class SortedSessions(NamedTuple):
    """Sessions of several events, partition after partition; within a partition by time of the first event."""

    rows: Rows
    start: Array  # [S] time of the first event
    returning: Array  # [S] see schema.ARRAYS
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


def arrange(
    segments: Sequence[Segment],
    live: Sequence[Array],
    columns: Iterable[str],
    rank_of_code: Mapping[str, Array],
    rule: SessionRule,
    counts: SessionCounts,
    split: Callable[[Sessions], Split],
) -> SortedSessions:
    """Put segments together, and split their sessions.

    Args:
        live: for each segment [S] False for sessions that another segment has instead.
        columns: what blocks are read with.

    Raises:
        UserError: no session has two events, or one goes back in the split column.
    """
    several = [alive & (s.table["length"] > 1) for s, alive in zip(segments, live, strict=True)]
    table = {name: _joined([s.table[name] for s in segments], several) for name in segments[0].table if name != KEY}
    _require_sessions(len(table["start"]), counts, rule)
    begin, bounds, rows = [], [np.zeros(1, dtype=np.int64)], 0
    for segment, mask in zip(segments, several, strict=True):
        length = segment.table["length"]
        begin.append((rows + np.cumsum(length) - length)[mask])
        before = np.concatenate([[0], np.cumsum(mask)])
        bounds.append(bounds[-1][-1] + before[segment.bounds[1:]])
        rows += int(length.sum())
    offsets = np.concatenate([[0], np.cumsum(table["length"], dtype=np.int64)])
    if RETURNING not in table:
        user = table[USER_ID] if USER_ID in table else np.zeros(len(table["start"]), dtype=np.uint8)
        table[RETURNING] = returning_users(user, table["start"])
    labelled = np.stack([table[part] for part in PARTS], axis=1) if PARTS[TRAIN] in table else None
    files = {name: [segment.columns[name] for segment in segments] for name in columns}
    whole = len(segments) == 1 and several[0].all()
    numbered = Rows(files, rank_of_code, offsets[:-1] if whole else np.concatenate(begin), offsets)

    def times(chosen: Array) -> Iterator[Array]:
        events = np.concatenate([[0], np.cumsum(table["length"][chosen])])
        spans = _spans(events, TIMES_AT_ONCE)
        return (numbered.read_chosen(TIMESTAMP, chosen[low:high]) for low, high in spans)

    ends = table["start"], table["end"]
    parts_of_sessions = split(Sessions(table["length"], *ends, times, labelled, timed=not rule.ordinal))
    require_targets(parts_of_sessions, table["length"])
    bounds_of_all = np.concatenate(bounds)
    return SortedSessions(numbered, table["start"], table[RETURNING], bounds_of_all, parts_of_sessions, counts)


def _joined(arrays: Sequence[Array], masks: Sequence[Array]) -> Array:
    """Concatenate the elements that are chosen; without a copy where these are all of one array."""
    if len(arrays) == 1 and masks[0].all():
        return arrays[0]
    return np.concatenate([array[mask] for array, mask in zip(arrays, masks, strict=True)])


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
    for span in _spans(sessions.rows.offsets, rows):
        yield _read_block(sessions, [span])


def _spans(offsets: Array, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the numbers low and high - 1 of the first and last of sessions with about `rows` events."""
    return pairwise(np.searchsorted(offsets, _cuts(offsets, rows)).tolist())


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
    total = np.cumsum(np.diff(sessions.rows.offsets)[order])
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
    pieces = [sessions.rows.read(sessions.rows.files, *span) for span in spans]
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in sessions.rows.files}
    session = np.concatenate([np.arange(low, high) for low, high in spans])
    length = sessions.rows.offsets[session + 1] - sessions.rows.offsets[session]
    columns[RETURNING] = np.repeat(sessions.returning[session], length)
    first = np.zeros(length.sum(), dtype=bool)
    first[np.cumsum(length) - length] = True
    return Block(columns, first, parts(length, sessions.split.train[session], sessions.split.validation[session]))


def parts(length: Array, train: Array, validation: Array) -> Array:
    """Return the part [e] of each event, from the number of events [s] of a session, and those in its first two parts.

    >>> parts(np.array([4, 2]), train=np.array([1, 2]), validation=np.array([1, 0]))
    array([0, 1, 2, 2, 0, 0], dtype=int8)
    """
    counts = np.stack([train, validation, length - train - validation], axis=1)
    return np.repeat(np.tile(np.array([TRAIN, VALIDATION, TEST], dtype=np.int8), len(length)), counts.ravel())


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
