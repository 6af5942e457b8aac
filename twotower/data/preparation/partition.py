"""First pass: rows are cleaned, their ids become numbers, and they are spread over files by session."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import polars as pl
from tqdm import tqdm

from twotower.core.errors import UserError
from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, USER_ID
from twotower.data.preparation import clean
from twotower.data.preparation.event_features import EventFeatures
from twotower.data.preparation.spill import KEY, Dictionary, Partitions, ahead
from twotower.data.preparation.splits import read_labels
from twotower.data.readers.source import PLACE, Source

MOST_TYPES = 255


@dataclass
class Spread:
    """What the first pass found out, beside the rows on disk."""

    unit: str
    by_user: bool
    read: int = 0
    looks: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    items: Dictionary = field(default_factory=Dictionary)
    types: Dictionary = field(default_factory=Dictionary)


def spread(
    source: Source,
    partitions: Partitions,
    features: EventFeatures,
    *,
    use_split: bool,
    use_users: bool,
    erase: Collection[str],
    until: str | None,
) -> Spread:
    """Read all rows of `source` and append the usable ones to `partitions`.

    Raises:
        UserError: needed columns are missing, or values can't be what they should.
    """
    by_user = SESSION_ID not in source.columns
    key = USER_ID if by_user else SESSION_ID
    if key not in source.columns:
        raise UserError(
            "there is neither a session nor a user column; "
            "say which it is: data.columns.session_id=NAME or data.columns.user_id=NAME"
        )
    if erase and USER_ID not in source.columns:
        raise UserError("preparation.erase names users, but the events have no user column: data.columns.user_id=NAME")
    optional = {EVENT_TYPE: True, SPLIT: use_split, CONSENT: True, USER_ID: use_users or bool(erase) or not by_user}
    optional |= {name: True for name in [*features.needs, *features.own]}
    wanted = [ITEM_ID, TIMESTAMP, key]
    wanted += [n for n, want in optional.items() if want and n in source.columns and n not in wanted]
    required = {ITEM_ID, key, EVENT_TYPE, *([SPLIT] if use_split else [])} & set(wanted)

    unit = _find_unit(source)
    found = Spread(unit, by_user)
    end = None if until is None else clean.moment(until, unit)
    unreadable = None
    for chunk in with_progress(source.chunks(wanted), source.rows, "reading events"):
        found.looks += clean.count_looks(chunk[TIMESTAMP])
        times = clean.whole_timestamps(chunk[TIMESTAMP], unit)
        if unreadable is None and times.null_count():
            bad = chunk[TIMESTAMP].filter(times.is_null()).drop_nulls()
            unreadable = bad[0] if len(bad) else None
        found.read += chunk.height
        chunk = clean.drop_unusable(chunk.with_columns(times), required, erase, end, found.dropped)
        if chunk.height:
            partitions.append(_numbers(chunk, key, use_users, found, partitions, features))
    partitions.close()
    kept = found.read - sum(found.dropped.values())
    if found.read == 0:
        raise UserError(
            f"{source.files[0]}: no rows in {len(source.files)} file(s), only column names; expected events"
        )
    if kept == 0 and unreadable is not None and found.dropped["no readable timestamp"] == found.read:
        raise UserError(
            f"no timestamp can be read, the first is '{unreadable}' (unit: {unit}); expected "
            "ISO 8601 (2025-01-31T12:00:00Z), or numbers in the unit that data.timestamp_unit says"
        )
    if kept == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items() if count)
        raise UserError(f"none of the {found.read:,} rows can be used: {reasons}")
    return found


def _find_unit(source: Source) -> str:
    """What the timestamps count; reads that column of all rows first where only its values can tell."""
    clean.check_unit(source.unit)
    looks: Counter[str] = Counter()
    for chunk in with_progress(source.chunks([TIMESTAMP]), source.rows, "reading timestamps"):
        if chunk[TIMESTAMP].dtype in (pl.Date, pl.Datetime):
            return clean.DATE
        if chunk[TIMESTAMP].dtype.is_numeric() and source.unit != "auto":
            return source.unit
        looks += clean.count_looks(chunk[TIMESTAMP])
    return clean.choose_unit(looks, source.unit)


def _numbers(
    chunk: pl.DataFrame, key: str, use_users: bool, found: Spread, partitions: Partitions, features: EventFeatures
) -> pl.DataFrame:
    """The rows as numbers alone: [E] each."""
    columns = [
        partitions.hashed(chunk[key]).alias(KEY),
        chunk[TIMESTAMP],
        chunk[PLACE].cast(pl.UInt32),
        found.items.encode(chunk[ITEM_ID]),
    ]
    if EVENT_TYPE in chunk.columns:
        types = found.types.encode(chunk[EVENT_TYPE])
        if len(found.types.values) > MOST_TYPES:
            raise UserError(f"over {MOST_TYPES} event types; is data.columns.event_type right?")
        columns.append(types.cast(pl.UInt8))
    else:
        columns.append(pl.repeat(1, chunk.height, dtype=pl.UInt8, eager=True).alias(EVENT_TYPE))
    if SPLIT in chunk.columns:
        columns.append(read_labels(chunk[SPLIT]))
    if USER_ID in chunk.columns and (use_users or key == SESSION_ID):
        columns.append(partitions.hashed(chunk[USER_ID]).fill_null(0).alias(USER_ID))
    return pl.DataFrame([*columns, *features.encode(chunk).get_columns()])


def with_progress(chunks: Iterator[pl.DataFrame], rows: int, what: str) -> Iterator[pl.DataFrame]:
    """The chunks, under a bar of rows, rate and time left where somebody is looking."""
    with tqdm(total=rows, desc=what, unit=" rows", unit_scale=True, leave=False, disable=None) as bar:
        for chunk in ahead(chunks):
            yield chunk
            bar.update(chunk.height)
