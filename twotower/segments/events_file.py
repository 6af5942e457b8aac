"""Histories from a file of events, with the ids of the users or sessions whose they are.

The file is read part by part; in memory stay about 30 bytes an event, the different ids, and the event features that
the model learns from. Shapes: E events, N rows of a part, S histories, K event inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from twotower.core.errors import UserError, nearest
from twotower.core.files import read_json
from twotower.core.inputs import EVENT_TYPE, GAP, HOUR, TIME, WEEKDAY
from twotower.core.schema import CONSENT, FEATURES_FILE, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID, YES
from twotower.segments.user_histories import Histories
from twotower.serving.bundle import Bundle
from twotower.serving.item_rows import rows_of

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

NO_TYPE = "(none)"
IN_MS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


class _Part(NamedTuple):
    """Rows that can be used."""

    ids: pa.Array  # [N] dictionary-encoded, as are types
    item_index: Array  # [N]
    time: Ints  # [N] milliseconds, or whatever tells the order
    types: pa.Array  # [N]
    features: pa.Table  # [N] columns that the model's event features come from


def read_events(
    bundle: Bundle, path: Path, columns: Mapping[str, str | None] | None = None, unit: str = "ms"
) -> Histories:
    """One history for each user, of all events; where events have no user_id, one for each session.

    Equal times keep their order in the file. Rows without id, item or time are left out, as are those without consent
    where events have that column.

    Args:
        bundle: whose items and event inputs are meant.
        path: Parquet, a file or a folder: item_id, timestamp, user_id or session_id; where there are any event_type,
            consent, and columns of the model's event features.
        columns: how the file calls them, as the data's configuration has it; None and what is missing: just so.
        unit: what timestamps count that are numbers: s, ms, us or ns since 1970; another: only the order counts.

    Raises:
        UserError: the file can't be read, lacks a column, has no usable row, or has ids or times of another type.
    """
    try:
        dataset = ds.dataset(str(path), format="parquet", partitioning="hive")
        present = dataset.schema.names
        names = _names(path, present, columns or {})
        features = [name for name in _feature_columns(bundle) if name in present]
        wanted = list(dict.fromkeys([*names.values(), *features]))
        read = [_part(path, bundle, batch, names, features, unit) for batch in dataset.to_batches(columns=wanted)]
        rows = dataset.count_rows()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read ({error}); expected events as Parquet: a file or a folder") from None
    left_out = rows - sum(len(part.time) for part in read)
    if left_out == rows:
        raise UserError(f"{path} has {rows:,} rows, none of them with {', '.join(names)} that can be used")
    key, ids = _joined([part.ids for part in read])
    types, type_names = _joined([part.types for part in read])
    time = np.concatenate([part.time for part in read])
    order = np.lexsort((time, key))  # stable
    known_types = type_names.to_pylist() if EVENT_TYPE in names else []
    offsets = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=len(ids)))])
    further = pa.concat_tables([part.features for part in read])
    return Histories(
        USER_ID if USER_ID in names else SESSION_ID,
        ids,
        np.concatenate([part.item_index for part in read])[order],
        offsets,
        types[order],
        known_types if len(known_types) > 1 else [],
        _coder(bundle, offsets, time[order], known_types, types[order], further, order),
        left_out,
    )


def _names(path: Path, present: Sequence[str], columns: Mapping[str, str | None]) -> dict[str, str]:
    """What the file calls each column that it has and that counts."""
    names = {}
    for name in (ITEM_ID, TIMESTAMP, USER_ID, SESSION_ID, EVENT_TYPE, CONSENT):
        source = columns.get(name) or name
        if source in present:
            names[name] = source
        elif name == CONSENT and columns.get(name):  # who trained with consent alone must not be surprised
            raise UserError(f"{path} has no column '{source}' with consent{nearest(source, present)}")
    for expected in ((ITEM_ID,), (TIMESTAMP,), (USER_ID, SESSION_ID)):
        if not names.keys() & {*expected}:
            raise UserError(
                f"{path} has no column for {' or '.join(expected)} (it has: {', '.join(present)}); expected "
                f"{' or '.join(columns.get(name) or name for name in expected)}, as in training"
            )
    if USER_ID in names:
        names.pop(SESSION_ID, None)
    return names


def _feature_columns(bundle: Bundle) -> list[str]:
    """The columns that the model's event features come from."""
    encoders = read_json(bundle.file(FEATURES_FILE), "a bundle")["events"]
    return list(dict.fromkeys(str(encoders[name].get("column") or name) for name in bundle.inputs if name in encoders))


def _part(
    path: Path, bundle: Bundle, batch: pa.RecordBatch, names: Mapping[str, str], features: Sequence[str], unit: str
) -> _Part:
    columns = {name: _decoded(batch[source]) for name, source in names.items()}
    id_name = USER_ID if USER_ID in names else SESSION_ID
    good = pc.and_(_has_value(columns[id_name]), _has_value(columns[ITEM_ID]))
    good = pc.and_(good, _has_value(columns[TIMESTAMP]))
    if CONSENT in columns:
        said = pc.utf8_lower(pc.utf8_trim_whitespace(columns[CONSENT].cast(pa.string())))
        good = pc.and_(good, pc.is_in(said, value_set=pa.array(YES)))
    columns = {name: column.filter(good) for name, column in columns.items()}
    try:
        ids = _as_ids(columns[id_name])
        items = _as_ids(columns[ITEM_ID]).cast(bundle.item_ids.type)
    except pa.ArrowException as error:
        raise UserError(
            f"{path} has ids of another type ({error}): '{names[ITEM_ID]}' of {columns[ITEM_ID].type} and "
            f"'{names[id_name]}' of {columns[id_name].type}; expected texts or whole numbers, and items as the "
            f"bundle's {bundle.item_ids[0].as_py()!r}"
        ) from None
    types = columns.get(EVENT_TYPE, pa.nulls(len(items)))
    return _Part(
        ids.dictionary_encode(),
        (rows_of(items, bundle.item_ids) + 1).astype(np.int32),
        _milliseconds(path, columns[TIMESTAMP], unit),
        pc.fill_null(types.cast(pa.string()), NO_TYPE).dictionary_encode(),
        pa.table({name: batch[name].filter(good) for name in features}),
    )


def _has_value(column: pa.Array) -> pa.Array:
    """[N] neither null, NaN nor an empty text, as in preparation."""
    some = pc.invert(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return pc.and_(some, pc.fill_null(pc.not_equal(column, ""), False)) if is_text else some


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _as_ids(column: pa.Array) -> pa.Array:
    """int64 or string; floats are whole numbers that went through such a column on their way."""
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return column.cast(pa.int64() if is_number else pa.string())


def _milliseconds(path: Path, column: pa.Array, unit: str) -> Ints:
    """[N] rounded down, as in preparation."""
    kind = column.type
    if len(column) == 0:
        return np.empty(0, dtype=np.int64)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        micros: Ints = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False)
        return micros // 1000
    if pa.types.is_integer(kind):
        numbers: Ints = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        factor = IN_MS.get(unit, 1.0)
        return numbers * int(factor) if factor >= 1 else numbers // round(1 / factor)
    if pa.types.is_floating(kind):
        micros = np.round(column.to_numpy(zero_copy_only=False) * (IN_MS.get(unit, 1.0) * 1000)).astype(np.int64)
        return micros // 1000
    raise UserError(f"{path} has timestamps of type {kind}; expected dates with times, or numbers")


def _coder(
    bundle: Bundle,
    offsets: Ints,
    time: Ints,
    type_names: Sequence[str],
    types: Array,
    features: pa.Table,
    order: Ints,
) -> Callable[[int, int], Ints]:
    """Codes of the event inputs of histories start:stop; `features` lie in the file's order."""
    inputs = set(bundle.inputs)

    def codes(start: int, stop: int) -> Ints:
        begin, end = int(offsets[start]), int(offsets[stop])
        if not inputs:
            return np.zeros((end - begin, 0), dtype=np.int64)
        columns: dict[str, list[Any]] = features.take(pa.array(order[begin:end])).to_pydict()
        if EVENT_TYPE in inputs and type_names:
            columns[EVENT_TYPE] = [type_names[code] for code in types[begin:end].tolist()]
        if inputs & {GAP, HOUR, WEEKDAY, TIME}:
            columns[TIMESTAMP] = time[begin:end].tolist()
        rows: list[dict[str, Any]] = [{} for _ in range(end - begin)]
        if columns:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        first = np.zeros(end - begin, dtype=bool)
        first[offsets[start:stop] - begin] = True
        return bundle.encoder.codes(rows, first)

    return codes


def _joined(encoded: Sequence[pa.Array]) -> tuple[Array, pa.Array]:
    """Dictionary-encoded parts as one: [E] codes, and the values by code."""
    chunks = pa.chunked_array(encoded).unify_dictionaries().chunks
    return np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), chunks[0].dictionary
