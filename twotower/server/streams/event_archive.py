"""Files of what a stream has brought, each named by its partition and its first and last offset.

A file appears whole, and is on the disk before the offsets are committed. After a crash messages come again; what the
names of the files in the folder say is there already, is not written again. A lock on the folder lets several processes
write to it: also one that was stopped, and goes on after another has taken its place, adds nothing twice.
"""

import base64
import fcntl
import glob
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import write_bytes
from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID
from twotower.core.values import text_of
from twotower.server.store.event_store import Event
from twotower.server.streams.messages import Message

Rows = Sequence[tuple[str, Any]]  # offset, and what belongs to it; in the order of offsets
PARQUET, LINES = "parquet", "jsonl"
ALIKE = {EVENT_TYPE, SESSION_ID, SPLIT}  # columns that preparation wants in all files of a folder or in none


def write_once(folder: Path, partition: str, kind: str, rows: Rows, content: Callable[[list[Any]], bytes]) -> int:
    """Write the rows that no file has yet to a new file; return how many these were.

    Args:
        folder: of the files; it is made where it is missing.
        partition: whose offsets the rows have.
        kind: what the names end in.
        rows: all that the partition has for such files between their first and last offset.
        content: makes a file's bytes of rows.

    Raises:
        UserError: the folder can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            new = _not_written(folder, partition, kind, rows)
            if new:
                file = folder / f"{quote(partition, safe='')}_{new[0][0]}_{new[-1][0]}.{kind}"
                write_bytes(file, content([row for _, row in new]))
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{folder} can't be written to ({error.strerror}); make room or name another folder") from None
    return len(new)


def _not_written(folder: Path, partition: str, kind: str, rows: Rows) -> list[tuple[str, Any]]:
    names = folder.glob(f"{glob.escape(quote(partition, safe=''))}_*_*.{kind}")
    ranges = sorted((first, last) for _, first, last in (name.stem.rsplit("_", 2) for name in names))
    reach = ""  # the last offset of all ranges up to one: they may overlap
    ends = [reach := max(reach, last) for _, last in ranges]
    firsts = [first for first, _ in ranges]
    return [row for row in rows if not (at := bisect_right(firsts, row[0])) or ends[at - 1] < row[0]]


def parquet_of(events: list[tuple[str, Event]], also: Collection[str] = ()) -> bytes:
    """Return events as a Parquet file that `data=events` reads.

    Columns: user_id, item_id (int64 where all are whole numbers, else text), timestamp, and any others, by name; those
    without a common type are text.

    Args:
        events: users and their events.
        also: columns to be there although no event has them; see `kept_columns`.
    """
    rows = [{USER_ID: user, **event} for user, event in events]
    others = {name for row in rows for name in row}.union(also) - {USER_ID, ITEM_ID, TIMESTAMP}
    columns: dict[str, Any] = {
        USER_ID: pa.array([row[USER_ID] for row in rows], pa.string()),
        ITEM_ID: _typed([row[ITEM_ID] for row in rows], {int}),
        TIMESTAMP: pa.array([row[TIMESTAMP] for row in rows], pa.timestamp("ms", tz="UTC")),
    }
    columns |= {name: _typed([row.get(name) for row in rows], {bool, int, float}) for name in sorted(others)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def kept_columns(folder: Path) -> set[str]:
    """Return which of ALIKE the newest Parquet file of a folder has, so that the next one has them, too."""
    newest = max(folder.glob(f"*.{PARQUET}"), key=lambda file: file.stat().st_mtime_ns, default=None)
    return set(pq.read_schema(newest).names) & ALIKE if newest else set()


def _typed(values: list[Any], kept: set[type]) -> pa.Array:
    """A column of one of the types that are kept, where all values have it; whole numbers and others are numbers."""
    types = {type(value) for value in values if value is not None}
    if types == {int} and int in kept and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if types == {bool} and bool in kept:
        return pa.array(values, pa.bool_())
    if types and types <= {int, float} and float in kept:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([text_of(value) for value in values], pa.string())


def lines_of(dead: list[tuple[Message, str]]) -> bytes:
    """Return dead letters as JSON Lines: partition, offset, timestamp, reason, and value or value_base64."""
    return b"".join(_line(message, reason) for message, reason in dead)


def _line(message: Message, reason: str) -> bytes:
    row = {"partition": message.partition, "offset": message.offset, "timestamp": message.timestamp, "reason": reason}
    value = message.value or b""
    try:
        row["value"] = value.decode()
    except UnicodeDecodeError:
        row["value_base64"] = base64.b64encode(value).decode()
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
