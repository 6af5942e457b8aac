"""Second pass: sessions on disk, and read back some at a time: as they lie there, or in the order of their beginning.

Shapes: E events, S sessions, P partitions; of one block: e events, s sessions.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from twotower.core.ragged import runs
from twotower.core.schema import ITEM_ID, RETURNING, TIMESTAMP, USER_ID
from twotower.data.preparation.sessionize import Counts, Rule, returning, sort_sessions
from twotower.data.preparation.spill import Columns, Partitions, ahead
from twotower.data.preparation.splits import PARTS, TEST, TRAIN, VALIDATION, Sessions, Split

Array = npt.NDArray[Any]


class Sorted(NamedTuple):
    """Sessions on disk: those of each partition one after another, in the order in which they begin."""

    columns: Columns  # [E] item rank, type, time, features' ranks
    start: Array  # [S]
    returning: Array  # [S] as schema's
    offsets: Array  # [S + 1] the session's events in `columns`
    bounds: Array  # [P + 1] sessions bounds[p]:bounds[p + 1] are those of partition p


class Block(NamedTuple):
    """Some whole sessions, all of their events."""

    columns: dict[str, Array]  # [e] each; RETURNING is one for all of a session
    first: Array  # [e] True for the first event of a session
    part: Array  # [e] TRAIN, VALIDATION or TEST


def sort_partitions(
    partitions: Partitions, rows: int, work: Path, luts: Mapping[str, Array], rule: Rule, counts: Counts
) -> tuple[Sorted, Sessions]:
    """Second pass: the rows of each partition sorted into sessions, back on disk in `work`; adds to `counts`.

    Args:
        rows: how many there are about, for the progress bar.
        luts: column -> [codes + 1] the final number of each code.
    """
    columns: Columns | None = None
    tables: dict[str, list[Array]] = {}
    bounds = [0]
    with tqdm(total=rows, desc="sorting sessions", unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        frames = (_settled(frame, luts) for frame in partitions.take_all())
        for events, sessions in ahead(sort_sessions(frame, rule, counts) for frame in frames):
            columns = columns or Columns(work, {name: array.dtype.str for name, array in events.items()})
            columns.append(events)
            if rule.by_user:  # all of a user's sessions are here
                sessions[RETURNING] = returning(sessions.pop(USER_ID), sessions["start"])
            for name, array in sessions.items():
                tables.setdefault(name, []).append(array)
            bounds.append(bounds[-1] + len(sessions["length"]))
            bar.update(len(events[ITEM_ID]))
    assert columns is not None
    table = {name: np.concatenate(arrays) for name, arrays in tables.items()}
    labelled = np.stack([table[part] for part in PARTS], axis=1) if PARTS[TRAIN] in table else None
    offsets = np.concatenate([[0], np.cumsum(table["length"], dtype=np.int64)])
    if RETURNING not in table:
        user = table.pop(USER_ID) if USER_ID in table else np.zeros(len(table["start"]), dtype=np.uint8)
        table[RETURNING] = returning(user, table["start"])
    sorted_ = Sorted(columns, table["start"], table[RETURNING], offsets, np.array(bounds))
    return sorted_, Sessions(table["length"], table["end"], labelled)


def _settled(frame: pl.DataFrame, luts: Mapping[str, Array]) -> pl.DataFrame:
    return frame.with_columns(pl.Series(name, lut[frame[name].to_numpy()]) for name, lut in luts.items())


def parts(length: Array, train: Array, validation: Array) -> Array:
    """[e] the part of each event of sessions [s]."""
    position = runs(np.zeros_like(length), length)
    tested = position >= np.repeat(train + validation, length)
    return np.where(position < np.repeat(train, length), TRAIN, np.where(tested, TEST, VALIDATION)).astype(np.int8)


def blocks(sorted_: Sorted, split: Split, rows: int) -> Iterator[Block]:
    """All sessions as they lie on disk, about `rows` events at a time."""
    marks = np.searchsorted(sorted_.offsets, np.arange(rows, sorted_.offsets[-1], rows))
    for low, high in _pairs(np.unique(np.concatenate([[0], marks, [len(sorted_.start)]]))):
        yield _block(sorted_, split, [(low, high)])


def by_start(sorted_: Sorted, split: Split, rows: int) -> Iterator[Block]:
    """All sessions in the order in which they begin, about `rows` events at a time.

    Sessions that begin together are ordered by what they hold, so that the order never tells whose they are.
    """
    order = np.argsort(sorted_.start, kind="stable")
    total = np.cumsum(np.diff(sorted_.offsets)[order])
    edges = np.unique(sorted_.start[order[np.searchsorted(total, np.arange(rows, total[-1], rows))]])
    del order, total
    spans = list(_pairs(sorted_.bounds))
    places = [low + np.searchsorted(sorted_.start[low:high], edges) for low, high in spans]
    cuts = [np.concatenate([[low], place, [high]]) for (low, high), place in zip(spans, places, strict=True)]
    for number in range(len(edges) + 1):
        yield _in_order(_block(sorted_, split, [(c[number], c[number + 1]) for c in cuts]))


def _pairs(bounds: Array) -> Iterator[tuple[int, int]]:
    return pairwise(bounds.tolist())


def _block(sorted_: Sorted, split: Split, spans: list[tuple[int, int]]) -> Block:
    """The sessions low .. high - 1 of each span, one span after another."""
    of = [(int(sorted_.offsets[low]), int(sorted_.offsets[high])) for low, high in spans]
    columns = {n: np.concatenate([sorted_.columns.read(n, *span) for span in of]) for n in sorted_.columns.dtypes}
    session = np.concatenate([np.arange(low, high) for low, high in spans])
    length = sorted_.offsets[session + 1] - sorted_.offsets[session]
    columns[RETURNING] = np.repeat(sorted_.returning[session], length)
    first = np.zeros(length.sum(), dtype=bool)
    first[np.cumsum(length) - length] = True
    return Block(columns, first, parts(length, split.train[session], split.validation[session]))


def _in_order(block: Block) -> Block:
    """The block's sessions by start; those that begin together by a number that their events give."""
    begin = np.flatnonzero(block.first)
    length = np.diff(begin, append=len(block.first))
    start = block.columns[TIMESTAMP][begin]
    order = np.argsort(start, kind="stable")
    tie = np.flatnonzero(np.diff(start[order]) == 0)
    if len(tie):
        tied = np.union1d(tie, tie + 1)  # places in the order
        some = order[tied]
        order[tied] = some[np.lexsort((_numbers(block, begin[some], length[some]), length[some], start[some]))]
    take = runs(begin[order], length[order])
    return Block({n: c[take] for n, c in block.columns.items()}, block.first[take], block.part[take])


def _numbers(block: Block, begin: Array, length: Array) -> Array:
    """[s] a number for each session, by what its events are."""
    take = runs(begin, length)
    told = [column for name, column in sorted(block.columns.items()) if name != USER_ID]  # whose number is random
    number = np.zeros(len(take), dtype=np.uint64)
    for column in [*told, block.part]:
        number = (number ^ _mixed(column[take])) * np.uint64(0x9E3779B97F4A7C15)
    position = runs(np.zeros_like(length), length).astype(np.uint64)
    return np.asarray(np.add.reduceat(_mixed(number + position), np.cumsum(length) - length))


def _mixed(column: Array) -> Array:
    """Integers with their bits stirred: the finisher of MurmurHash3."""
    bits = column.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(33))
