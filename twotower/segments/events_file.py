"""Histories of users or sessions from files of events, which are read and cleaned as in preparation.

Memory: about 30 bytes an event, the distinct ids, and the event features that are inputs of the model.
Shapes: E events, S histories, K event inputs.
"""

import glob
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import CONSENT, EVENT_TYPE, FEATURES_FILE, ITEM_ID, ORDINAL, SESSION_ID, TIMESTAMP, USER_ID
from twotower.data.preparation.clean import drop_unusable
from twotower.data.preparation.identifiers import Dictionary
from twotower.data.readers.events import AUTO, event_source
from twotower.data.readers.source import Source
from twotower.data.text_form import in_text_form
from twotower.data.timestamps import DATE, whole_timestamps
from twotower.segments.user_histories import Histories
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import rows_of

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
KEYS = (USER_ID, SESSION_ID)
NO_TYPE = "(none)"


def open_events(path: Path, columns: Mapping[str, str | bool | None] | None, unit: str) -> tuple[Source, str]:
    """Open what `read_events` reads, and name the column of its histories; raises UserError where that can't be."""
    if not glob.glob(str(path)):
        raise UserError(f"events={path}: no such file, folder or glob")
    names = {name: (columns or {}).get(name, AUTO) for name in (ITEM_ID, TIMESTAMP, *KEYS, EVENT_TYPE, CONSENT)}
    if names[ITEM_ID] is None:  # a run of an older version, where null meant auto
        names = {name: source or AUTO for name, source in names.items()}
    if names[USER_ID] not in (None, False, AUTO):
        names[SESSION_ID] = False
    source = event_source(str(path), names, unit)
    key = next((name for name in KEYS if name in source.columns), None)
    if key is None:
        raise UserError(f"{path} has no column for {' or '.join(KEYS)} (it has: {', '.join(source.columns)})")
    return source, key


def read_events(
    bundle: Bundle, path: Path, columns: Mapping[str, str | bool | None] | None = None, unit: str = "ms"
) -> Histories:
    """Return one history for each user; where events have no user_id, one for each session.

    Equal times keep their order in the files. Rows without id, item or time are left out, and those without consent
    where events have that column.

    Args:
        bundle: the items and event inputs are expressed in its indices and codes.
        path: a file, a folder or a glob, as in training: item_id, timestamp, user_id or session_id; optional:
            event_type, consent, and columns of the model's event features.
        columns: the files' name of each, as in the data's configuration; missing: the same name.
        unit: of numeric timestamps: s, ms, us, ns or ordinal.

    Raises:
        UserError: a file can't be read, lacks a column, or has no usable row.
    """
    source, key = open_events(path, columns, unit)
    encoders = read_json(bundle.file(FEATURES_FILE), "a bundle")["events"]
    features = [str(encoders[name].get("column") or name) for name in bundle.inputs if name in encoders]
    wanted = dict.fromkeys([key, ITEM_ID, TIMESTAMP, EVENT_TYPE, CONSENT, *features])
    ids, types, dropped = Dictionary(), Dictionary(), Counter[str]()
    parts = []
    for chunk in source.chunks([name for name in wanted if name in source.columns]):
        is_date = chunk[TIMESTAMP].dtype.is_temporal()
        chunk = in_text_form(chunk, bundle.encoder.form).with_columns(
            whole_timestamps(chunk[TIMESTAMP], DATE if is_date else unit)
        )
        chunk = drop_unusable(chunk, (key, ITEM_ID), (), None, dropped)
        coded = [
            ids.encode(chunk[key]),
            pl.Series(ITEM_ID, _item_index(bundle, chunk)),
            chunk[TIMESTAMP] // (1 if unit == ORDINAL else 1000),
            *([types.encode(chunk[EVENT_TYPE].fill_null(NO_TYPE))] if EVENT_TYPE in chunk.columns else []),
        ]
        parts.append(pl.DataFrame([*coded, *(chunk[name] for name in features if name in chunk.columns)]))
    if not any(part.height for part in parts):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "no rows at all"
        raise UserError(f"{path}: none of the {sum(dropped.values()):,} rows can be used: {reasons}")
    return _histories(bundle, key, pl.concat(parts), ids.values, types.values.to_list(), sum(dropped.values()))


def _item_index(bundle: Bundle, events: pl.DataFrame) -> Array:
    """Return [E] the bundle's item_index of each event; PAD where it does not have the item."""
    keys = events[ITEM_ID].cast(pl.String).to_arrow()
    return (rows_of(keys.cast(pa.string()), bundle.item_ids.cast(pa.string())) + 1).astype(np.int32)


def _by_first_event(code: Array) -> tuple[Ints, Ints]:
    """Renumber the codes [E] of a Dictionary in the order of their first event; also return the old order, from 0."""
    _, first, old = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[old], order


def _histories(
    bundle: Bundle, key: str, events: pl.DataFrame, ids: pl.Series, types: list[str], unusable: int
) -> Histories:
    """Sort coded events by user or session, in the order of their first event, and by time."""
    owner, order = _by_first_event(events[key].to_numpy())
    events = events.with_columns(pl.Series(key, owner)).sort(key, TIMESTAMP, maintain_order=True).drop(key)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner))])
    event_type = np.zeros(len(owner), dtype=np.int64)
    if types:
        event_type, by_type = _by_first_event(events[EVENT_TYPE].to_numpy())
        types = [types[code] for code in by_type]
        names = pl.Series(types, dtype=pl.Enum(types))
        events = events.with_columns(names.gather(event_type).alias(EVENT_TYPE))
    item_index = events[ITEM_ID].to_numpy()
    raw = events.drop(ITEM_ID)

    def codes(start: int, stop: int) -> Ints:
        begin, end = int(offsets[start]), int(offsets[stop])
        first = np.zeros(end - begin, dtype=bool)
        first[offsets[start:stop] - begin] = True
        return bundle.encoder.codes(raw[begin:end].to_dicts(), first)

    id_type = pa.int64() if ids.dtype == pl.Int64 else pa.string()
    return Histories(
        key,
        ids.gather(order).to_arrow().cast(id_type),
        item_index,
        offsets,
        event_type,
        types if len(types) > 1 else [],
        codes,
        unusable,
    )
