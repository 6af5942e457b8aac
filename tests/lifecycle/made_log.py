"""Impressions and events written by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.serving.impressions import schema_of

HOUR = 3_600_000
NOON = 1_767_268_800_000  # 2026-01-01T12:00Z


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]], item_id: pa.DataType | None = None) -> Path:
    """Write impressions; a row has what differs from a list shown to user u at noon."""
    plain: dict[str, Any] = {
        "request_id": "r",
        "timestamp": NOON,
        "user": "u",
        "request": '{"history": []}',
        "teams": None,
        "bundle": "b",
        "bucket": "",
    }
    full = []
    for row in rows:
        size = len(row["item_ids"])
        full.append(plain | {"propensities": [1.0] * size, "ranks": list(range(size))} | dict(row))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{len(list(folder.iterdir()))}.parquet"
    pq.write_table(pa.Table.from_pylist(full, schema_of(item_id or pa.string())), file)
    return folder


def write_events(file: Path, rows: Sequence[tuple[Any, Any, float, str]], **columns: Any) -> str:
    """Write events: user, item, hours after noon, type; and further columns."""
    table = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "timestamp": [NOON + int(row[2] * HOUR) for row in rows],
        "event_type": [row[3] for row in rows],
        **columns,
    }
    pl.DataFrame(table).write_parquet(file)
    return str(file)
