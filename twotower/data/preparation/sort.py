"""Second pass: rows become sessions on disk. Shapes: E events, S sessions, P partitions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from twotower.core.arrays import Array
from twotower.core.schema import EVENT_TYPE, ITEM_ID, RETURNING, USER_ID
from twotower.data.preparation.sessionize import SessionCounts, SessionRule, returning_users, sort_sessions
from twotower.data.preparation.spill import ArrayFile, Partitions, prefetched

Older = Callable[[int, int, pl.DataFrame | None], tuple[pl.DataFrame, pl.DataFrame] | None]


class Segment(NamedTuple):
    """Sessions on disk, partition after partition: those of several events by time of the first, then single events."""

    columns: dict[str, ArrayFile]  # [E] codes of items, event types (0: bounce) and features; time; what is kept
    table: dict[str, Array]  # [S] start, end, length; KEY, USER_ID or RETURNING, and the numbers of PARTS, where known
    bounds: Array  # [P + 1] sessions bounds[p]:bounds[p + 1] are those of partition p


def sort_partitions(
    partitions: Partitions,
    rows: int,
    folder: Path,
    rank_of_code: Mapping[str, Array],
    rule: SessionRule,
    older: Older | None = None,
) -> tuple[Segment, SessionCounts]:
    """Sort the rows of each partition into sessions, and write these to the directory `folder`.

    Args:
        rows: about how many there are, for the progress bar.
        rank_of_code: column -> [codes + 1] the rank by which each code is sorted.
        older: from the number of a partition, how many there are, and its new rows, to the older rows that were sorted
            before and are now sorted with them, and those of them that stay; given, what the next preparation needs is
            kept.

    Returns:
        The segment, and the counts without those that the older rows had made before.
    """
    counts, gone = SessionCounts(), SessionCounts()
    codes = {name: _codes_by_rank(ranks) for name, ranks in rank_of_code.items()}
    columns: dict[str, ArrayFile] = {}
    tables: dict[str, list[Array]] = {}
    bounds = [0]

    def ranked(frame: pl.DataFrame) -> pl.DataFrame:
        frame = frame.with_columns(pl.Series(name, lut[frame[name].to_numpy()]) for name, lut in rank_of_code.items())
        if rule.bounce:  # of sessions that were sorted before
            frame = frame.with_columns(pl.col(EVENT_TYPE).replace(rule.bounce.bounce, rule.bounce.base))
        return frame

    def sorted_part(number: int) -> tuple[dict[str, Array], dict[str, Array]]:
        new = partitions.take(number)
        old = older(number, partitions.count, new) if older else None
        frames = [] if new is None else [ranked(new)]
        if old is not None:
            sort_sessions(ranked(old[0]), rule, gone)
            frames.append(ranked(old[1]))
        if not any(frame.height for frame in frames):
            return {}, {}
        frame = pl.concat([f.select(frames[0].columns) for f in frames])
        return sort_sessions(frame, rule, counts, keep=older is not None)

    with tqdm(total=rows, desc="sorting sessions", unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        for events, sessions in prefetched(map(sorted_part, range(partitions.count))):
            for name, array in events.items():
                values = codes[name][array] if name in codes else array
                if name not in columns:
                    columns[name] = ArrayFile(folder / f"{name}.npy", values.dtype.str)
                columns[name].append(values)
            if rule.by_user and sessions:  # all sessions of a user are in this partition
                sessions[RETURNING] = _returning_of_several(
                    sessions.pop(USER_ID), sessions["start"], sessions["length"]
                )
            for name, array in sessions.items():
                tables.setdefault(name, []).append(array)
            bounds.append(bounds[-1] + len(sessions.get("length", ())))
            bar.update(len(events.get(ITEM_ID, ())))
    for file in columns.values():
        file.close()
    counts.add(gone, -1)
    return Segment(columns, {n: np.concatenate(a) for n, a in tables.items()}, np.array(bounds)), counts


def _codes_by_rank(rank_of_code: Array) -> Array:
    """Return the code of each rank, 0 for one that no code from 1 on has.

    >>> _codes_by_rank(np.array([0, 2, 1, 3], np.uint32))
    array([0, 2, 1, 3], dtype=uint32)
    """
    codes = np.zeros(int(rank_of_code.max()) + 1, rank_of_code.dtype)
    codes[rank_of_code[1:]] = np.arange(1, len(rank_of_code))
    return codes


def _returning_of_several(user: Array, start: Array, length: Array) -> Array:
    returning = np.zeros(len(user), dtype=np.uint8)
    several = length > 1
    returning[several] = returning_users(user[several], start[several])
    return returning
