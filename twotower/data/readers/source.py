"""What a reader gives to the preparation: rows in chunks, whatever the files are."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from twotower.core.schema import Prepared

CHUNK_ROWS = 500_000  # rows that a reader delivers at one time
FILE = "file_number"  # number of the file that a row is from, in Source.files
PLACE = "place"  # number of a row within its own file: decides the order of equal timestamps


@dataclass(frozen=True)
class Source:
    """Events of one data set, read when they are asked for.

    Attributes:
        name: names the prepared directory.
        files: all that is read; their sizes and times tell whether the same was prepared before.
        settings: whatever else decides on the rows, as plain JSON.
        columns: what `chunks` can deliver: schema's names, and further columns under their own.
        rows: about how many rows there are; rather too many than too few.
        unit: what numeric timestamps count: s, ms, us, ns or ordinal; auto: determined from the values.
        chunks: names of columns -> frames of those and PLACE (Int64), of about CHUNK_ROWS rows at most. Ids are Int64
            in all of them or String in all; event types and splits String; timestamps UTC datetimes, numbers or String.
        items: a table of ITEM_ID and features; with a TIMESTAMP (Int64 milliseconds) a row holds from then on.
        users: a table of USER_ID and features, likewise.
        event_files: how many of `files`, the first ones, hold the events. `chunks` can deliver FILE (UInt32), too, and
            read only some of these: chunks(names, numbers). 0: it can do neither.

    >>> frame = pl.DataFrame({"user_id": [1, 1], "item_id": [5, 7], "timestamp": [0, 1], "place": [0, 1]})
    >>> source = Source("shop", [], {}, frame.columns[:3], 2, "s", chunks=lambda names: iter([frame]))
    >>> next(source.chunks(["item_id"]))["item_id"].to_list()
    [5, 7]
    """

    name: str
    files: list[Path]
    settings: dict[str, Any]
    columns: list[str]
    rows: int
    unit: str
    chunks: Callable[..., Iterator[pl.DataFrame]]
    items: Callable[[], pl.LazyFrame] | None = None
    users: Callable[[], pl.LazyFrame] | None = None
    event_files: int = 0

    def read(self, names: Sequence[str], only: Collection[int] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the chunks of all files, or `only` of the files of these numbers."""
        return self.chunks(names) if only is None else self.chunks(names, only)


Prepare = Callable[[Source], Prepared]
