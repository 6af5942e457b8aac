"""Raw event files to a prepared directory; the same input and settings are prepared once."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.data.catalogue import PART, build_catalogue, item_indices
from twotower.data.clean import ORDINAL, drop_unusable, whole_timestamps
from twotower.data.readers.events import find_files, read_events
from twotower.data.sessions import assign_sessions
from twotower.data.splits import TEST, TRAIN, VALIDATION, Split
from twotower.errors import UserError
from twotower.files import atomic_directory
from twotower.schema import (
    CATALOGUE_FILE,
    EVENT_TYPE,
    FORMAT_VERSION,
    SESSION_ID,
    SPLIT,
    TIMESTAMP,
    USER_ID,
    Array,
    Prepared,
    open_prepared,
    write_prepared,
)

log = logging.getLogger(__name__)

INDEX = "index"  # item_index
PARTS = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


def prepare_events(
    path: str,
    columns: Mapping[str, str | None],
    timestamp_unit: str,
    session_gap_minutes: float | None,
    split: Callable[..., Split],
    prepared_root: str,
) -> Prepared:
    """Prepare the event files behind `path`, or find them prepared already.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSON Lines.
        columns: schema name -> the files' name for it (None: the same name, where there is one).
        timestamp_unit: auto, s, ms, us, ns or ordinal.
        session_gap_minutes: where there is no session column, a pause that ends a session (None: never).
        split: one of data.splits, with its settings.
        prepared_root: the folder that holds prepared directories.

    Returns:
        The opened prepared directory, whose manifest accounts for every row.

    Raises:
        UserError: the input can't be read, or nothing usable is left of it.
    """
    files = find_files(path)
    # Overrides from the command line may be numbers; columns have names.
    columns = {name: None if source is None else str(source) for name, source in columns.items()}
    settings = {
        "format_version": FORMAT_VERSION,
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "columns": columns,
        "timestamp_unit": timestamp_unit,
        "session_gap_minutes": session_gap_minutes,
        "split": _settings_of(split),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "", Path(path).stem).strip(".-_") or "events"
    directory = Path(prepared_root) / f"{name}-{key}"
    if directory.exists():
        log.info("prepared already: %s", directory)
    else:
        try:
            with atomic_directory(directory) as temporary:
                _prepare(files, columns, timestamp_unit, session_gap_minutes, split, settings, temporary)
        except UserError:
            if not directory.exists():  # else another process has prepared the same meanwhile
                raise
    prepared = open_prepared(directory)
    log.info("%s", describe(prepared.manifest))
    return prepared


def _prepare(
    files: list[Path],
    columns: Mapping[str, str | None],
    timestamp_unit: str,
    session_gap_minutes: float | None,
    split: Callable[..., Split],
    settings: dict[str, Any],
    directory: Path,
) -> None:
    began = time.perf_counter()
    events = read_events(files, columns)
    rows_read = events.height
    if rows_read == 0:
        raise UserError(f"{files[0]}: no rows in {len(files)} file(s), only column names; expected events")
    stamps, unit = whole_timestamps(events[TIMESTAMP], timestamp_unit)
    events = events.with_columns(stamps.alias(TIMESTAMP))
    if SPLIT in events.columns and settings["split"]["name"] != "predefined":
        log.info("the column '%s' is not used; split=predefined uses it", columns.get(SPLIT) or SPLIT)
        events = events.drop(SPLIT)
    if SESSION_ID in events.columns and USER_ID in events.columns:
        events = events.drop(USER_ID)  # the session column decides; its anonymous visits have no user
    events, dropped = drop_unusable(events)
    if events.height == 0:
        raise UserError(f"none of the {rows_read:,} rows can be used: {_reasons(dropped)}")

    events, session_source = assign_sessions(events, unit, session_gap_minutes)
    events = _drop(events, pl.len().over(SESSION_ID) == 1, dropped, "only event of its session")
    if events.height == 0:
        raise UserError(
            f"each session has one event, so there is no next item to learn (sessions: {session_source}); "
            "is it the right session column, or is data.session_gap_minutes too small?"
        )
    if unit != ORDINAL:  # the order is settled; from here on milliseconds are enough
        events = events.with_columns(pl.col(TIMESTAMP) // 1000)

    parts = split(
        offsets=_offsets(events),
        timestamp=events[TIMESTAMP].to_numpy(),
        labels=events[SPLIT].to_numpy() if SPLIT in events.columns else None,
    )
    events = events.with_columns(pl.Series(PART, _part(_offsets(events), parts)))
    test_events = events.filter(pl.col(PART) == TEST).height
    catalogue = build_catalogue(events)
    events = events.with_columns(item_indices(events, catalogue).alias(INDEX))
    outside = "test event of an item that no earlier event has"
    events = _drop(events, pl.col(INDEX).is_null(), dropped, outside)
    # Only test events go: what a model may learn from must not depend on what the test holds.
    alone = (pl.len().over(SESSION_ID) == 1) & (pl.col(PART) == TEST)
    events = _drop(events, alone, dropped, "left alone in its session")

    counts = {name: events.filter(pl.col(PART) == part).height for part, name in PARTS.items()}
    if 0 in counts.values():
        raise UserError(
            f"split={settings['split']['name']} leaves events of {counts}; expected some in each part. "
            f"Dropped: {_reasons(dropped) or 'none'}"
        )
    event_types, arrays = _arrays(events)
    catalogue.write_parquet(directory / CATALOGUE_FILE)
    manifest = {
        "num_items": catalogue.height,
        "event_types": event_types,
        "rows": {"read": rows_read, "kept": events.height, "dropped": dropped},
        "sessions": {"count": len(arrays["offsets"]) - 1, "source": session_source},
        "timestamp_unit": unit,
        "split": {
            **parts.facts,
            "events": counts,
            "test_events_outside_catalogue": dropped.get(outside, 0) / max(1, test_events),
        },
        "settings": settings,
        "seconds": round(time.perf_counter() - began, 2),
    }
    write_prepared(directory, arrays, manifest)


def _arrays(events: pl.DataFrame) -> tuple[list[str], dict[str, Array]]:
    """Event types by code, and schema's arrays of the kept events."""
    names, code = ["event"], np.zeros(events.height, dtype=np.uint8)
    if EVENT_TYPE in events.columns:
        names = sorted(events[EVENT_TYPE].unique())
        if len(names) > 255:
            raise UserError(f"{len(names)} event types, expected up to 255; is data.columns.event_type right?")
        code = events[EVENT_TYPE].replace_strict(names, range(len(names)), return_dtype=pl.UInt8).to_numpy()
    offsets = _offsets(events)
    part = events[PART].to_numpy()
    return names, {
        "item_index": events[INDEX].to_numpy(),
        "event_type": code,
        "timestamp": events[TIMESTAMP].to_numpy(),
        "offsets": offsets,
        "train_end": offsets[:-1] + np.add.reduceat(part == TRAIN, offsets[:-1], dtype=np.int64),
        "validation_end": offsets[:-1] + np.add.reduceat(part != TEST, offsets[:-1], dtype=np.int64),
    }


def describe(manifest: Mapping[str, Any]) -> str:
    """What was read, kept and dropped, in plain words."""
    rows, split, sessions = manifest["rows"], manifest["split"], manifest["sessions"]
    parts = ", ".join(f"{name} {count:,}" for name, count in split["events"].items())
    lines = [
        f"rows read {rows['read']:,}, kept {rows['kept']:,}, dropped {rows['read'] - rows['kept']:,}",
        *(f"  dropped {count:,}: {reason}" for reason, count in rows["dropped"].items()),
        f"sessions {sessions['count']:,} from {sessions['source']}; items {manifest['num_items']:,}; "
        f"event types: {', '.join(manifest['event_types'])}; timestamps in {manifest['timestamp_unit']}",
        f"split {split['kind']}, events: {parts}; "
        f"{split['test_events_outside_catalogue']:.2%} of the test's events are outside the catalogue",
    ]
    return "\n".join(lines)


def _settings_of(split: Callable[..., Split]) -> dict[str, Any]:
    """A split's name and settings: Hydra hands it over as a functools.partial."""
    function = getattr(split, "func", split)
    return {"name": function.__name__, **getattr(split, "keywords", {})}


def _drop(events: pl.DataFrame, condition: pl.Expr, dropped: dict[str, int], reason: str) -> pl.DataFrame:
    """Remove the rows that meet a condition and count them in `dropped`."""
    kept = events.filter(~condition)
    if kept.height < events.height:
        dropped[reason] = events.height - kept.height
    return kept


def _offsets(events: pl.DataFrame) -> Array:
    """[S + 1] where each session begins, and the end; events are sorted by session."""
    session = events[SESSION_ID].to_numpy()
    return np.concatenate([[0], np.flatnonzero(np.diff(session)) + 1, [len(session)]])


def _part(offsets: Array, split: Split) -> Array:
    """[E] the part of each event."""
    position, lengths = np.arange(offsets[-1]), np.diff(offsets)
    trained = position < np.repeat(split.train_end, lengths)
    tested = position >= np.repeat(split.validation_end, lengths)
    return np.where(trained, TRAIN, np.where(tested, TEST, VALIDATION))


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
