"""Raw event files to a prepared directory; the same input and settings are prepared once."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.data.catalogue import PART, build_catalogue, item_indices
from twotower.data.clean import ORDINAL, PER_MILLISECOND, drop_unusable, whole_timestamps
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
    open_prepared,
    write_prepared,
)

log = logging.getLogger(__name__)


def prepare_events(
    path: str,
    columns: Mapping[str, str | None],
    timestamp_unit: str,
    session_gap_minutes: float | None,
    split: Callable[..., Split],
    prepared_root: str,
) -> Path:
    """Prepare the event files behind `path`, or find them prepared already.

    Args:
        path: a file, a folder or a glob of Parquet, CSV or JSON Lines.
        columns: schema name -> the files' name for it (None: the same name, where there is one).
        timestamp_unit: auto, s, ms, us, ns or ordinal.
        session_gap_minutes: where there is no session column, a pause that ends a session (None: never).
        split: one of data.splits, with its settings.
        prepared_root: the folder that holds prepared directories.

    Returns:
        The prepared directory, whose manifest accounts for every row.

    Raises:
        UserError: the input can't be read, or nothing usable is left of it.
    """
    files = find_files(path)
    settings = {
        "format_version": FORMAT_VERSION,
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "columns": dict(columns),
        "timestamp_unit": timestamp_unit,
        "session_gap_minutes": session_gap_minutes,
        "split": _settings_of(split),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    directory = Path(prepared_root) / f"{Path(path).stem.strip('*. ') or 'events'}-{key}"
    if directory.exists():
        log.info("prepared already: %s", directory)
    else:
        with atomic_directory(directory) as temporary:
            _prepare(files, columns, timestamp_unit, session_gap_minutes, split, settings, temporary)
    log.info("%s", describe(open_prepared(directory).manifest))
    return directory


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
        raise UserError(f"{files[0]}: no rows in {len(files)} file(s)")
    stamps, unit = whole_timestamps(events[TIMESTAMP], timestamp_unit)
    events = events.with_columns(stamps.alias(TIMESTAMP))
    if (SPLIT in events.columns) and settings["split"]["name"] != "predefined":
        log.info("the column '%s' is not used; split=predefined uses it", columns.get(SPLIT) or SPLIT)
        events = events.drop(SPLIT)
    if SESSION_ID in events.columns and USER_ID in events.columns:
        events = events.drop(USER_ID)  # the session column decides; its anonymous visits have no user
    events, dropped = drop_unusable(events)
    if events.height == 0:
        raise UserError(f"none of the {rows_read:,} rows can be used: {_reasons(dropped)}")

    events, session_source = assign_sessions(events, unit, session_gap_minutes)
    events = _drop_short(events, dropped, "only event of its session")
    if events.height == 0:
        raise UserError(
            f"each of the sessions has one event, so there is no next item to learn (sessions: {session_source}); "
            "is it the right session column, or is data.session_gap_minutes too small?"
        )

    labels = events[SPLIT].to_numpy() if SPLIT in events.columns else None
    offsets = _offsets(events)
    parts = split(offsets=offsets, timestamp=events[TIMESTAMP].to_numpy(), labels=labels)
    position = np.arange(events.height)
    part = np.full(events.height, TRAIN)
    lengths = np.diff(offsets)
    part[position >= np.repeat(parts.train_end, lengths)] = VALIDATION
    part[position >= np.repeat(parts.validation_end, lengths)] = TEST
    events = events.with_columns(pl.Series(PART, part))

    catalogue = build_catalogue(events)
    events = events.with_columns(item_indices(events, catalogue).alias("index"))
    targets = int((part == TEST).sum())
    known = events.filter(pl.col("index").is_not_null())
    outside = events.height - known.height
    if outside:
        dropped["test event of an item that no earlier event has"] = outside
    events = _drop_short(known, dropped, "left alone in its session")

    types = events[EVENT_TYPE].cast(pl.String) if EVENT_TYPE in events.columns else None
    names = sorted(types.unique().to_list()) if types is not None else ["event"]
    if len(names) > 255:
        raise UserError(f"{len(names)} event types; expected at most 255. Is data.columns.event_type right?")
    code = types.replace_strict(names, list(range(len(names)))) if types is not None else np.zeros(events.height)
    offsets = _offsets(events)
    part = events[PART].to_numpy()
    milliseconds = events[TIMESTAMP].to_numpy()
    if unit not in (ORDINAL, "ms"):
        milliseconds = (milliseconds / PER_MILLISECOND[unit]).astype(np.int64)
    arrays = {
        "item_index": events["index"].to_numpy(),
        "event_type": np.asarray(code),
        "timestamp": milliseconds,
        "offsets": offsets,
        "train_end": offsets[:-1] + _count(part == TRAIN, offsets),
        "validation_end": offsets[:-1] + _count(part != TEST, offsets),
    }
    for label, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (part == label).any():
            raise UserError(f"the {name} part is empty after split={settings['split']['name']}; there are too few sessions")
    catalogue.write_parquet(directory / CATALOGUE_FILE)
    manifest = {
        "num_items": catalogue.height,
        "event_types": names,
        "rows": {"read": rows_read, "kept": events.height, "dropped": dropped},
        "sessions": {"count": len(offsets) - 1, "source": session_source},
        "timestamp_unit": unit,
        "split": {
            **parts.facts,
            "events": {n: int((part == i).sum()) for i, n in enumerate(("train", "validation", "test"))},
            "test_events_outside_catalogue": outside / max(1, targets),
        },
        "settings": settings,
        "seconds": round(time.perf_counter() - began, 2),
    }
    write_prepared(directory, arrays, manifest)


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
        f"{split['test_events_outside_catalogue']:.2%} of the test's events are of items outside the catalogue",
    ]
    return "\n".join(lines)


def _settings_of(split: Callable[..., Split]) -> dict[str, Any]:
    """A split's name and settings: Hydra hands it over as a functools.partial."""
    function = getattr(split, "func", split)
    return {"name": function.__name__, **getattr(split, "keywords", {})}


def _drop_short(events: pl.DataFrame, dropped: dict[str, int], reason: str) -> pl.DataFrame:
    kept = events.filter(pl.len().over(SESSION_ID) > 1)
    if kept.height < events.height:
        dropped[reason] = events.height - kept.height
    return kept


def _offsets(events: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[S + 1] where each session begins, and the end; events are sorted by session."""
    session = events[SESSION_ID].to_numpy()
    return np.concatenate([[0], np.flatnonzero(np.diff(session)) + 1, [len(session)]]).astype(np.int64)


def _count(which: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[S] how many of each session's events are chosen."""
    total = np.concatenate([[0], np.cumsum(which)])
    return np.asarray(total[offsets[1:]] - total[offsets[:-1]])


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
