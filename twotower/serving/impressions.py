"""A log of impressions: what was shown to whom, by which bundle, and with which probability.

    with ImpressionLog("impressions", retriever.bundle) as log:
        result = retriever.recommend([history], k=20, exploration=0.1, exclude_seen=True)
        log.write("user-1", history, result, parameters={"exclude_seen": True})

Whole Parquet files appear in the folder; `twotower experiment` reads them. Columns:

    request_id    string
    timestamp     int64, milliseconds since 1970
    user          string: the caller's key of a user or session, the same one that its events have
    request       string: {"history": [...]} and other parameters of the request, as JSON
    item_ids      list of int64 or string, as they were shown, best first
    propensities  list of float64: the probability of each item to be in the list; 1 without exploration
    ranks         list of int32: each item's place without exploration
    teams         list of int8: of interleaved lists (serving.team_draft); else null
    bundle        string: the beginning of the bundle's checksum
    bucket        string: of an experiment (serving.buckets); else empty
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import write_bytes
from twotower.serving.answers import Recommendations
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import ItemId
from twotower.serving.event_encoder import Event, milliseconds

HISTORY = "history"
OF_THE_LIST = ("k", "exploration", "seed")  # parameters that the list itself shows


def schema_of(item_id: pa.DataType) -> pa.Schema:
    """Return the columns of an impression log for ids of this type."""
    texts = {name: pa.string() for name in ("request_id", "user", "request", "bundle", "bucket")}
    lists = {"item_ids": item_id, "propensities": pa.float64(), "ranks": pa.int32(), "teams": pa.int8()}
    types = texts | {"timestamp": pa.int64()} | {name: pa.list_(kind) for name, kind in lists.items()}
    names = ("request_id", "timestamp", "user", "request", *lists, "bundle", "bucket")
    return pa.schema([(name, types[name]) for name in names])


class ImpressionLog:
    """Writes impressions; safe to share between threads. A process that forks opens one in each child.

    Rows wait in memory until there are `rows_per_file` of them, or until `flush` or `close`.
    """

    def __init__(self, folder: str | Path, bundle: Bundle, rows_per_file: int = 10_000) -> None:
        self._folder = Path(folder)
        self._schema = schema_of(bundle.item_ids.type)
        self._bundle = str(bundle.manifest["checksum"])[:16]
        self._rows_per_file = rows_per_file
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        user: str,
        history: Sequence[ItemId | Event],
        result: Recommendations,
        query: int = 0,
        *,
        parameters: Mapping[str, Any] | None = None,
        bucket: str = "",
        teams: Sequence[int] | None = None,
        timestamp: int | None = None,
        request_id: str | None = None,
    ) -> str:
        """Log one list and return its request id.

        Args:
            user: a key of the user or session that the events of clicks and purchases have, too.
            history: as `Retriever.recommend` got it.
            result: what it returned.
            query: which of the result's lists was shown.
            parameters: the other arguments of `recommend`, so that another bundle can be asked the same; k, exploration
                and seed are left out.
            bucket: of an experiment.
            teams: of an interleaved list.
            timestamp: milliseconds since 1970; None: now.
            request_id: the caller's; None: a new one.

        Raises:
            UserError: a history or parameters that JSON can't hold, or a folder that can't be written to: the rows stay
                for the next attempt.
        """
        ids = result.ids[query]
        size = len(ids)
        try:
            asked = {name: value for name, value in (parameters or {}).items() if name not in OF_THE_LIST}
            request = json.dumps({HISTORY: list(history), **asked}, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError) as error:
            raise UserError(f"the request of user {user!r} is not JSON: {error}; log ids, texts and numbers") from None
        row = {
            "request_id": request_id or uuid.uuid4().hex,
            "timestamp": int(time.time() * 1000) if timestamp is None else int(timestamp),
            "user": str(user),
            "request": request,
            "item_ids": ids,
            "propensities": [1.0] * size if result.propensities is None else result.propensities[query, :size].tolist(),
            "ranks": list(range(size)) if result.ranks is None else result.ranks[query, :size].tolist(),
            "teams": None if teams is None else list(teams),
            "bundle": self._bundle,
            "bucket": str(bucket),
        }
        with self._lock:
            self._rows.append(row)
            full = len(self._rows) >= self._rows_per_file
        if full:
            self.flush()
        return str(row["request_id"])

    def flush(self) -> None:
        """Write the rows that wait to a file."""
        with self._lock:
            rows, self._rows = self._rows, []
        if not rows:
            return
        file = self._folder / f"{rows[0]['timestamp']}-{uuid.uuid4().hex[:12]}.parquet"
        try:
            content = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows, self._schema), content, compression="zstd")
            write_bytes(file, content.getvalue().to_pybytes())
        except BaseException as error:
            with self._lock:
                self._rows = rows + self._rows
            if isinstance(error, OSError):
                raise UserError(
                    f"{file} can't be written ({error.strerror}); make room or name another folder"
                ) from None
            raise

    def close(self) -> None:
        """Write what waits; more can be logged afterwards."""
        self.flush()

    def __enter__(self) -> "ImpressionLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: Any) -> Any:
    """What JSON can hold of a time or of NumPy's numbers and arrays."""
    if isinstance(value, datetime):
        return milliseconds(value, "the request")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")
