"""Read an impression log and the outcomes of what it shows."""

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID, TIMESTAMP
from twotower.core.values import TextForm
from twotower.data.readers.events import event_source
from twotower.data.text_form import ids, texts
from twotower.data.timestamps import choose_unit, count_units, whole_timestamps
from twotower.serving.impressions import schema_of

HOUR = 3_600_000  # milliseconds
USER, IMPRESSION, PLACE, VALUE, COUNT = "user", "impression", "place", "value", "count"
LISTS = ("item_ids", "propensities", "ranks", "teams")


class Outcomes(NamedTuple):
    """What happened after impressions, and until when that is known."""

    events: pl.DataFrame  # USER, ITEM_ID (texts), TIMESTAMP (ms), VALUE, by time; of the types that count
    end: int | None  # time of the last event of any type, in ms; None: there is no event


def read_impressions(folder: Path) -> pl.DataFrame:
    """Return all impressions of a folder, or of one file, by time, each with a number: IMPRESSION.

    Raises:
        UserError: no files, or files that serving.impressions did not write.
    """
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not files or not files[0].is_file():
        raise UserError(f"{folder} has no impressions; expected Parquet files of serving.impressions.ImpressionLog")
    try:
        log = pl.concat([pl.read_parquet(file) for file in files])
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder} can't be read as one impression log: {reason}") from None
    missing = set(schema_of(pa.string()).names) - set(log.columns)
    if missing or log.height == 0:
        found = f"no column {', '.join(sorted(missing))}" if missing else "no rows"
        raise UserError(f"{folder} has {found}; expected what serving.impressions.ImpressionLog writes")
    lengths = [pl.col(name).list.len() for name in ("propensities", "ranks")]
    odd = log.filter(pl.any_horizontal(pl.col("item_ids").list.len() != length for length in lengths))
    wrong = log.filter(pl.col("propensities").list.eval(~pl.element().is_between(0, 1, "right")).list.any())
    if odd.height or wrong.height:
        what = "lists of other lengths" if odd.height else "propensities outside of (0, 1]"
        raise UserError(
            f"{folder}: {odd.height or wrong.height:,} impressions have {what}; log recommend's own answers"
        )
    return log.sort(TIMESTAMP, maintain_order=True).with_row_index(IMPRESSION)


def read_outcome_events(
    path: str, key: str, types: Collection[str] = (), value: str | None = None, unit: str = "auto"
) -> Outcomes:
    """Return the events that count, and when all events end.

    Args:
        path: a file, a folder or a glob, as in training.
        key: the column of the users or sessions that the log has as its user.
        types: event types that count; none: all events.
        value: a column of what an event is worth, such as the price; None: each counts 1.
        unit: of numeric timestamps.

    Raises:
        UserError: unreadable files, a missing column, or no event of these types.
    """
    names = {"user_id": key, EVENT_TYPE: "auto"}
    source = event_source(path, names, unit)
    wanted = ["user_id", ITEM_ID, TIMESTAMP, *([EVENT_TYPE] if types else []), *([value] if value else [])]
    missing = [name for name in wanted if name not in source.columns]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)} (it has: {', '.join(source.columns)})")
    events = pl.concat(list(source.chunks(wanted)))
    time = whole_timestamps(events[TIMESTAMP], choose_unit(count_units(events[TIMESTAMP]), unit)) // 1000
    events = events.with_columns(time.alias(TIMESTAMP))
    end: Any = time.max()
    if types:
        known = Counter(dict(texts(events[EVENT_TYPE]).value_counts().rows()))
        events = events.filter(texts(events[EVENT_TYPE]).is_in(list(types)))
        if events.height == 0:
            raise UserError(f"{path} has no event of type {', '.join(types)}; its types: {', '.join(map(str, known))}")
    table = {
        USER: ids(events["user_id"], TextForm()),
        ITEM_ID: ids(events[ITEM_ID], TextForm()),
        TIMESTAMP: events[TIMESTAMP],
        VALUE: events[value].cast(pl.Float64, strict=False).fill_null(0.0) if value else np.ones(events.height),
    }
    return Outcomes(pl.DataFrame(table).sort(TIMESTAMP, maintain_order=True), end)


def complete(log: pl.DataFrame, end: int | None, hours: float) -> pl.DataFrame:
    """Return the impressions whose window had ended at `end`, in ms; raises UserError where there are none."""
    done = log.filter(pl.col(TIMESTAMP) + int(hours * HOUR) <= end) if end is not None else log.clear()
    if done.height == 0:
        first, last = (_told(time) for time in (log[TIMESTAMP].min(), end))
        raise UserError(
            f"no impression's {hours:g} hours had ended at the last event: the first impression is of {first},"
            f" the last event {last}. Wait, shorten --hours, or give events of the same time"
        )
    return done


def _told(milliseconds: Any) -> str:
    """A time in words; "none" where there is none."""
    return "none" if milliseconds is None else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def shown_items(log: pl.DataFrame, events: pl.DataFrame, hours: float) -> pl.DataFrame:
    """Return a row for each shown item, by impression and place, with COUNT and VALUE of the events it led to.

    An event counts for the last impression that showed its item to its user, up to `hours` before it.
    """
    no_team = pl.lit(-1, pl.Int8).repeat_by(pl.col("item_ids").list.len())
    shown = log.with_columns(pl.coalesce("teams", no_team)).select(IMPRESSION, TIMESTAMP, USER, *LISTS)
    shown = shown.explode(*LISTS).drop_nulls("item_ids")  # of an empty list
    place = pl.int_range(pl.len()).over(IMPRESSION).alias(PLACE)
    shown = shown.with_columns(ids(shown[USER], TextForm()), ids(shown["item_ids"], TextForm()), place)
    keyed = shown.select(IMPRESSION, PLACE, TIMESTAMP, USER, pl.col("item_ids").alias(ITEM_ID))
    keyed = keyed.sort(TIMESTAMP, maintain_order=True)
    joined = events.join_asof(
        keyed,
        on=TIMESTAMP,
        by=[USER, ITEM_ID],
        strategy="backward",
        tolerance=int(hours * HOUR),
        check_sortedness=False,
    )
    led = joined.drop_nulls(IMPRESSION).group_by(IMPRESSION, PLACE).agg(pl.len().alias(COUNT), pl.col(VALUE).sum())
    return shown.join(led, on=[IMPRESSION, PLACE], how="left", maintain_order="left").with_columns(
        pl.col(COUNT, VALUE).fill_null(0)
    )
