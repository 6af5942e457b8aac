"""Recognise what the columns of a shop's files hold, by their names and values, and propose item features."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from twotower.core.errors import UserError, nearest
from twotower.core.schema import CONSENT, EVENT_TYPE, ITEM_COLUMNS, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID
from twotower.data.readers.feature_table import scan_table
from twotower.data.readers.files import find_files, readable
from twotower.data.timestamps import DATE, PER_SECOND, count_units

SAMPLE_ROWS = 200_000
NAMES = {  # column of events -> names that it has elsewhere, in small letters and digits, the likeliest first
    ITEM_ID: "itemid item productid product sku articleid article asin movieid trackid contentid variantid offerid aid "
    "listingid artikelnummer artikel",
    TIMESTAMP: "timestamp eventtime time ts datetime createdat occurredat eventtimestamp eventdate date zeit",
    SESSION_ID: "sessionid session visitid visit usersession sitzung",
    USER_ID: "userid user customerid customer visitorid visitor clientid accountid memberid shopperid kunde reviewerid",
    EVENT_TYPE: "eventtype event eventname action actiontype type behavior behaviour interaction kind ereignis aktion "
    "typ",
    CONSENT: "consent",
}
TYPES = re.compile("(page)?views?|clicks?|(addto)?cart|purchases?|orders?|buys?|transactions?")
PRICES = re.compile("price|cost|amount|msrp|preis|prix|precio|цена", re.IGNORECASE)
CODES = re.compile(r"(id|code|type|class|nr|no|key)$", re.IGNORECASE)  # numbers that are names
SEPARATORS = ("|", ";", ",")
Recognised = dict[str, tuple[str, str]]
MANY_VALUES, RARE = 200, 5  # a feature of more values than that: those of fewer items share a code


class Proposal(NamedTuple):
    """A feature: its name, and its declaration as preparation.features has it (None: better left out)."""

    name: str
    spec: dict[str, Any] | None
    reason: str


def read_sample(path: str, setting: str) -> pl.DataFrame:
    """The first SAMPLE_ROWS rows of the first file behind a file, folder or glob; of CSV all columns are text."""
    file = find_files(path, setting)[0]
    with readable(file):
        return scan_table(file).head(SAMPLE_ROWS).collect()


def recognise_events(events: pl.DataFrame, items: pl.DataFrame | None, given: Mapping[str, str]) -> Recognised:
    """Column of events -> the file's name for it, and how it was recognised: item, time, session, user, event type.

    Args:
        events: a sample.
        items: a sample of the item table, if there is one: its ids tell the events' item column.
        given: column of events -> the file's name for it, where the user has said so.

    Raises:
        UserError: no column holds the item, the time, or a session or user; or a given one does not exist.
    """
    for given_name, column in given.items():
        for word, known in ((given_name, list(NAMES)), (column, events.columns)):
            if word not in known:
                hint = nearest(word, known)
                raise UserError(f"--column {given_name}={column}: {word} is not one of {', '.join(known)}{hint}")
    found = {name: (column, "as you said") for name, column in given.items()}
    for look in (_by_name, _by_values):  # all names first: numbers of users may look like times
        for name in NAMES:
            free = events.drop(column for column, _ in found.values())
            if name not in found and (recognised := look(name, free, items)):
                found[name] = recognised
    for wanted in ((ITEM_ID,), (TIMESTAMP,), (SESSION_ID, USER_ID)):
        if not found.keys() & set(wanted):
            raise UserError(
                f"none of the events' columns looks like {' or '.join(wanted)}: {', '.join(events.columns)}. "
                f"Say which one it is: --column {wanted[0]}=NAME"
            )
    return found


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


def _by_name(name: str, events: pl.DataFrame, items: pl.DataFrame | None) -> tuple[str, str] | None:
    for known in NAMES[name].split():
        for column in events.columns:
            if _plain(column) == known or (len(known) >= 6 and _plain(column).endswith(known)):
                return column, "by its name"
    return None


def _by_values(name: str, events: pl.DataFrame, items: pl.DataFrame | None) -> tuple[str, str] | None:
    for column in events.get_columns():
        if name == ITEM_ID and items is not None and id_column(items, column)[1] > 0.5:
            return column.name, "its values are ids of the item table"
        if name == TIMESTAMP and _is_time(column):
            return column.name, "its values are times"
        texts: Iterable[str] = column.drop_nulls().unique().head(50) if column.dtype == pl.String else []
        if name == EVENT_TYPE and any(TYPES.fullmatch(_plain(text)) for text in texts):
            return column.name, "by its values"
    return None


def _is_time(column: pl.Series) -> bool:
    if not (column.dtype.is_numeric() or column.dtype.is_temporal() or column.dtype == pl.String):
        return False
    if column.dtype in (pl.Time, pl.Duration):
        return False
    looks = count_units(column)
    return sum(looks[look] for look in (DATE, *PER_SECOND)) > 0.9 * max(1, len(column) - column.null_count())


def id_column(table: pl.DataFrame, ids: pl.Series) -> tuple[str | None, float]:
    """The table's column that has the largest share of the distinct `ids`, and that share."""
    if ids.dtype.is_nested():
        return None, 0.0
    wanted = ids.drop_nulls().cast(pl.String).unique()
    best: tuple[str | None, float] = (None, 0.0)
    for column in table.get_columns():
        if not column.dtype.is_nested():
            known = column.cast(pl.String).unique()
            share = len(wanted.filter(wanted.is_in(known.implode()))) / max(1, len(wanted))
            best = max(best, (column.name, share), key=lambda pair: pair[1])
    return best


def propose(column: pl.Series, place: int) -> Proposal:
    """A feature for one column of an item table.

    Args:
        column: one value an item.
        place: the column's number, for a name where its own has no Latin letters.
    """
    spec, reason = _kind(column.name, column.drop_nulls())
    name = _feature_name(column.name, place)
    if spec and name != column.name:
        spec = {"kind": spec["kind"], "column": column.name, **spec}
    return Proposal(name, spec, reason)


def _feature_name(column: str, place: int) -> str:
    latin = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode()
    name = re.sub(r"\W+", "_", latin).strip("_")
    if not re.match("[A-Za-z]", name):
        return f"feature_{place}"
    return f"{name}_of_item" if name in ITEM_COLUMNS else name


def _kind(name: str, values: pl.Series) -> tuple[dict[str, Any] | None, str]:
    """A declaration for values without nulls, and the reason for it."""
    if isinstance(values.dtype, pl.List | pl.Array):
        if values.dtype.inner.is_numeric():
            return {"kind": "vector"}, "lists of numbers"
        return {"kind": "multi"}, "lists of values"
    if values.dtype.is_nested() or len(values) == 0:
        return None, f"holds {values.dtype}" if len(values) else "empty"
    distinct = values.n_unique()
    if distinct == 1:
        return None, "each item has the same value"
    numbers = values.cast(pl.Float64, strict=False) if values.dtype != pl.Boolean else values.clear()
    if not CODES.search(name) and len(numbers) and numbers.null_count() == 0:
        if PRICES.search(name):
            return {"kind": "price"}, "logarithm, in 20 buckets of as many items each"
        return {"kind": "numeric", "buckets": 10}, f"{distinct:,} different numbers"
    if _is_time(values):
        return None, "dates"
    if values.dtype == pl.String:
        for separator in SEPARATORS:
            pieces = values.str.split(separator).explode().str.strip_chars()
            if len(pieces) > 1.2 * len(values) and pieces.n_unique() < min(distinct, len(pieces) / 2):
                return {"kind": "multi", "separator": separator}, f"{pieces.n_unique():,} values, several an item"
    if distinct > len(values) / 2:
        words = values.cast(pl.String).str.count_matches(r"\S+").mean()
        if isinstance(words, float) and words >= 2:
            return {"kind": "text"}, "words: hashed parts of them, 3 and 4 characters long"
        return None, "nearly every item has a value of its own"
    rare = {"min_count": RARE} if distinct > MANY_VALUES else {}
    return {"kind": "categorical", **rare}, f"{distinct:,} values"
