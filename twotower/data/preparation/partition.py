"""First pass: rows are cleaned, their ids become integers, and they are partitioned into files by session."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import polars as pl
from tqdm import tqdm

from twotower.audit.losses import REMEDIES, examples
from twotower.core.errors import UserError
from twotower.core.matches import SAMPLE
from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID
from twotower.core.values import TextForm
from twotower.data.preparation.clean import TIMESTAMP_TEXT, drop_unusable
from twotower.data.preparation.event_features import FEATURE, EventFeatures
from twotower.data.preparation.first_pass import PartitionedEvents, check_types
from twotower.data.preparation.identifiers import Dictionary, similar_ids
from twotower.data.preparation.spill import KEY, Partitions, prefetched
from twotower.data.preparation.splits import read_labels
from twotower.data.readers.source import FILE, PLACE, Source
from twotower.data.text_form import in_text_form
from twotower.data.timestamps import (
    DATE,
    check_unit,
    choose_unit,
    count_units,
    parse_until,
    whole_timestamps,
)

MAX_EVENT_TYPES = 255
FILE_NAME, WITHOUT_USER = GROUPS = ("file", "without user_id")  # of rows, beside their event types and features


def partition_events(
    source: Source,
    partitions: Partitions,
    features: EventFeatures,
    *,
    use_split: bool,
    use_users: bool,
    erase: AbstractSet[str],
    until: str | None,
    form: TextForm,
    only: Collection[int] | None = None,
    before: tuple[Mapping[str, Any], Mapping[str, pl.Series]] | None = None,
) -> PartitionedEvents:
    """Read the rows of `source` and append the usable ones to `partitions`.

    Args:
        use_split: read the split column.
        use_users: read the user column, if there is one.
        erase: ids of users whose events are removed.
        until: date or time from which on events are removed.
        form: how texts are read.
        only: the numbers of the files to read; None: all.
        before: the state and the dictionaries that the other files have left.

    Raises:
        UserError: needed columns are missing, values have a wrong type, or no row can be used.
    """
    by_user = SESSION_ID not in source.columns
    key = USER_ID if by_user else SESSION_ID
    _require_columns(source, key, erase)
    optional = {EVENT_TYPE: True, SPLIT: use_split, CONSENT: True, USER_ID: use_users or bool(erase) or not by_user}
    optional |= dict.fromkeys([*features.table_keys, *features.event_columns], True)
    columns = [ITEM_ID, TIMESTAMP, key]
    columns += [n for n, wanted in optional.items() if wanted and n in source.columns and n not in columns]
    required = {ITEM_ID, key, EVENT_TYPE, *([SPLIT] if use_split else [])} & set(columns)

    events = PartitionedEvents(partitions, "", by_user, use_users or not by_user)
    if before:
        events.restore(*before)
        features.dictionaries = {name: Dictionary(before[1][FEATURE + name]) for name in features.dictionaries}
    events.unit = unit = _find_unit(source, only, events.units)
    if before and unit != before[0]["unit"]:
        raise UserError(
            f"with the new files the timestamps count {unit}, but the rows of preparation.store were read as "
            f"{before[0]['unit']}; give data.timestamp_unit, and another folder as preparation.store"
        )
    newest = events.newest
    end = None if until is None else parse_until(until, unit)
    by_file = [FILE] if source.event_files else []
    for chunk in _with_progress(source.read([*columns, *by_file], only), source.rows, "reading events"):
        check_types(chunk.select(columns), events, form)
        events.units += count_units(chunk[TIMESTAMP])
        times = whole_timestamps(chunk[TIMESTAMP], unit)
        events.rows += chunk.height
        text = chunk[TIMESTAMP].alias(TIMESTAMP_TEXT)
        chunk = in_text_form(chunk, form).with_columns(times, text, *_groups(chunk, by_user, source))
        if USER_ID in columns:
            users = chunk[USER_ID].unique()
            events.erased |= erase & set(users.cast(pl.String)) if erase else set()
            events.some_users = users.drop_nulls().head(SAMPLE).cast(pl.String).to_list()
            for step, (groups, *_) in similar_ids(users, form.ids).items():
                found = (groups, "", "")  # no id of a user is kept, not even as an example
                seen = events.similar_ids.setdefault(USER_ID, {})
                seen[step] = max(found, seen.get(step, found))
        events.losses.add_rows(chunk, [n for n in (EVENT_TYPE, *features.event_columns, *GROUPS) if n in chunk.columns])
        chunk = drop_unusable(chunk, required, erase, end, events.dropped, events.losses)
        if chunk.height:
            events.late += int((chunk[TIMESTAMP] < newest).sum())
            events.newest = max(events.newest, int(chunk[TIMESTAMP].to_numpy().max()))
            partitions.append(_as_integers(chunk, key, events, features))
    partitions.close()
    _require_rows(source, events)
    events.similar_ids[ITEM_ID] = similar_ids(events.items.values, form.ids)
    return events


def _require_columns(source: Source, key: str, erase: Collection[str]) -> None:
    if key not in source.columns:
        raise UserError(
            "there is neither a session nor a user column; "
            "name one: data.columns.session_id=NAME or data.columns.user_id=NAME"
        )
    if erase and USER_ID not in source.columns:
        raise UserError("preparation.erase names users, but the events have no user column: data.columns.user_id=NAME")


def _groups(chunk: pl.DataFrame, by_user: bool, source: Source) -> Iterator[pl.Expr]:
    """Yield the columns GROUPS of a chunk, as far as they are known."""
    if FILE in chunk.columns and chunk.height:  # a chunk is of one file
        yield pl.lit(str(source.files[chunk[FILE][0]])).alias(FILE_NAME)
    if USER_ID in chunk.columns and not by_user:
        yield pl.col(USER_ID).is_null().alias(WITHOUT_USER)


def _require_rows(source: Source, events: PartitionedEvents) -> None:
    if events.rows == 0:
        raise UserError(
            f"{source.files[0]}: no rows in {len(source.files)} file(s), only column names; expected events"
        )
    if sum(events.dropped.values()) < events.rows:
        return
    lost = {reason: count for reason, count in events.dropped.items() if count}
    samples = events.losses.as_json()["samples"]
    reasons = ", ".join(f"{count:,} {reason}{examples(samples.get(reason, ()))}" for reason, count in lost.items())
    remedy = REMEDIES.get(max(lost, key=lambda reason: lost[reason]), "")
    raise UserError(f"none of the {events.rows:,} rows can be used: {reasons}. {remedy}".rstrip(" ."))


def _find_unit(source: Source, only: Collection[int] | None, before: Counter[str]) -> str:
    """Determine the unit of the timestamps; reads that column of all rows where its type does not decide."""
    check_unit(source.unit)
    units = Counter(before)
    for chunk in _with_progress(source.read([TIMESTAMP], only), source.rows, "reading timestamps"):
        if chunk[TIMESTAMP].dtype in (pl.Date, pl.Datetime):
            return DATE
        if chunk[TIMESTAMP].dtype.is_numeric() and source.unit != "auto":
            return source.unit
        units += count_units(chunk[TIMESTAMP])
    return choose_unit(units, source.unit)


def _as_integers(chunk: pl.DataFrame, key: str, events: PartitionedEvents, features: EventFeatures) -> pl.DataFrame:
    """Convert rows [E] to columns of integers alone."""
    columns = [
        events.hashed(chunk[key], key).alias(KEY),
        chunk[TIMESTAMP],
        chunk[PLACE].cast(pl.UInt32),
        events.items.encode(chunk[ITEM_ID]),
    ]
    if EVENT_TYPE in chunk.columns:
        types = events.types.encode(chunk[EVENT_TYPE])
        if len(events.types.values) > MAX_EVENT_TYPES:
            raise UserError(f"over {MAX_EVENT_TYPES} event types; is data.columns.event_type right?")
        columns.append(types.cast(pl.UInt8))
    else:
        columns.append(pl.repeat(1, chunk.height, dtype=pl.UInt8, eager=True).alias(EVENT_TYPE))
    if SPLIT in chunk.columns:
        columns.append(read_labels(chunk[SPLIT]))
    if USER_ID in chunk.columns and events.keep_users:
        columns.append(events.hashed(chunk[USER_ID], USER_ID).fill_null(0).alias(USER_ID))
    return pl.DataFrame([*columns, *features.encode(chunk).get_columns()])


def _with_progress(chunks: Iterator[pl.DataFrame], rows: int, title: str) -> Iterator[pl.DataFrame]:
    """Yield the chunks under a progress bar of rows, shown on a terminal alone."""
    with tqdm(total=rows, desc=title, unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        for chunk in prefetched(chunks):
            yield chunk
            bar.update(chunk.height)
