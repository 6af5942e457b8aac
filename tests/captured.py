"""What a reader hands over, taken apart by tests in the preparation's place."""

import gzip
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import polars as pl

from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID, Prepared
from twotower.data.readers.source import CHUNK_ROWS, PLACE, Source

TEXTS = (EVENT_TYPE, SPLIT, CONSENT)


def source_of(read: Callable[..., Prepared], path: object, **settings: Any) -> Source:
    """The source that `read` gives to the preparation; the preparation's answer must come back."""
    taken, answer = [], object()

    def prepare(source: Source) -> Prepared:
        taken.append(source)
        return cast(Prepared, answer)

    assert read(path=str(path), prepare=prepare, **settings) is answer
    json.dumps(taken[0].settings)  # the preparation makes a key of them
    assert all(file.is_file() for file in taken[0].files)
    return taken[0]


def events_of(source: Source, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All events of a source in one frame, after checking what source.Source promises of chunks."""
    wanted = list(columns or source.columns)
    chunks = list(source.chunks(wanted))
    for chunk in chunks:
        assert set(chunk.columns) == {*wanted, PLACE}
        assert chunk.schema == chunks[0].schema
        assert chunk.height <= CHUNK_ROWS
    place = [place for chunk in chunks for place in chunk[PLACE].to_list()]
    assert all(number in (0, before + 1) for before, number in pairwise([-1, *place]))
    assert place.count(0) <= len(source.files)
    events = pl.concat(chunks)
    for name, dtype in events.schema.items():
        assert name not in (SESSION_ID, USER_ID, ITEM_ID) or dtype in (pl.Int64, pl.String)
        assert name not in TEXTS or dtype == pl.String
        assert name != TIMESTAMP or dtype in (pl.Int64, pl.Float64, pl.String, pl.Datetime("us", "UTC"))
    return events.select(wanted)


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and its folders; text as UTF-8, and zipped where the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" and isinstance(content, str) else data)
    return path
