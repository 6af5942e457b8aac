"""Histories of a request, checked and reduced to what the catalogue knows of them.

Shapes: Q histories, E events of all of them together, one history after the other; K event inputs.
"""

import operator
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np

from twotower.core.arrays import Ints
from twotower.core.errors import UserError
from twotower.core.schema import ITEM_ID, PAD
from twotower.serving.catalogue import Catalogue
from twotower.serving.event_encoder import EventEncoder, item_ids
from twotower.serving.unknown import Unknown

HISTORIES = "a list of histories, each a list of item ids or events, oldest first. For one history write [[...]]"
ITEMS = "a list of item ids"


class KnownEvents(NamedTuple):
    """The events of Q histories whose items the catalogue has, history after history, oldest first.

    >>> KnownEvents(np.array([3, 1, 7]), np.zeros((3, 0), int), np.array([2, 0, 1])).end
    array([2, 2, 3])
    """

    item_index: Ints  # [E] none of them PAD
    codes: Ints  # [E, K] of the event inputs
    length: Ints  # [Q]; 0: no item of the history is known
    now: Ints | None = None  # [Q] times of the query, in seconds, or AT_ONCE; None: all AT_ONCE

    @property
    def end(self) -> Ints:
        """[Q] the position just after each history's newest event."""
        return np.cumsum(self.length)

    @property
    def rows(self) -> list[Ints]:
        """[Q] the catalogue's rows of each history's items."""
        return np.split(self.item_index - 1, self.end)[:-1]


def read_histories(
    histories: Any, context: Any, catalogue: Catalogue, encoder: EventEncoder, unknown: Unknown
) -> KnownEvents:
    """Check a request's histories and encode them.

    Args:
        histories: Q lists of item ids or events, oldest first; see `Retriever.recommend`.
        context: what holds for all events that do not say otherwise; None: nothing.
        catalogue: the bundle's ids.
        encoder: of the model's event inputs.
        unknown: gets what the bundle does not have.

    Raises:
        UserError: histories that are no lists, events without item_id or with a malformed value.
    """
    events, length = flatten(histories)
    shared = _checked_context(context)
    if not shared and not any(issubclass(kind, Mapping) for kind in set(map(type, events))):
        codes = np.zeros((len(events), len(encoder.inputs)), dtype=np.int64)
        return known_events(catalogue, events, codes, length, unknown)
    rows = [{**shared, **(event if isinstance(event, Mapping) else {ITEM_ID: event})} for event in events]
    ids = item_ids(rows)
    first = np.zeros(len(rows), dtype=bool)
    first[(np.cumsum(length) - length)[length > 0]] = True
    codes = encoder.codes(rows, first)
    encoder.note_unknown(rows, codes, unknown)
    return known_events(catalogue, ids, codes, length, unknown)


def encoded_histories(
    histories: Any, codes: Any, sizes: Sequence[int], catalogue: Catalogue, unknown: Unknown
) -> KnownEvents:
    """Read histories of item ids with the codes [K] of each event, which are below `sizes` [K]."""
    ids, length = flatten(histories)
    rows = [row for history in codes for row in history]
    try:
        table = np.array(rows, dtype=np.int64).reshape(len(ids), len(sizes))
    except ValueError:
        raise UserError(f"expected one code for each of {len(ids)} items and {len(sizes)} inputs") from None
    if ((table < 0) | (table >= sizes)).any():
        raise UserError(f"a code is outside its input's range; expected 0 to less than {list(sizes)}")
    return known_events(catalogue, ids, table, length, unknown)


def known_events(catalogue: Catalogue, ids: list[Any], codes: Ints, length: Ints, unknown: Unknown) -> KnownEvents:
    """Leave out events of unknown items: `ids` [E] with `codes` [E, K], of histories of `length` [Q] events."""
    item_index = catalogue.item_index(ids, "histories", unknown)
    is_known = item_index != PAD
    history = np.repeat(np.arange(len(length)), length)
    return KnownEvents(item_index[is_known], codes[is_known], np.bincount(history[is_known], minlength=len(length)))


def flatten(histories: Any) -> tuple[list[Any], Ints]:
    """Return all histories' events [E] in one list, and how many each history has [Q]."""
    lists = [as_list(history, f"histories[{i}]") for i, history in enumerate(as_list(histories, "histories"))]
    length = np.array([len(items) for items in lists], dtype=np.int64)
    return [item for items in lists for item in items], length


def as_list(value: Any, argument: str, expected: str = HISTORIES) -> list[Any]:
    """Return an iterable as a list; raises UserError for a text, a mapping, a set and anything not iterable."""
    if isinstance(value, str | bytes | Mapping | AbstractSet) or not isinstance(value, Iterable):
        raise UserError(f"{argument} is {value!r}; expected {expected}")
    return list(value)


def _checked_context(context: Any) -> dict[str, Any]:
    if context is not None and not isinstance(context, Mapping):
        raise UserError(f'context is {context!r}; expected an object, as in {{"device": "phone"}}')
    shared = dict(context or {})
    if ITEM_ID in shared:
        raise UserError(f"context has {ITEM_ID}; it holds for all events of the request, and each has its own item")
    return shared


def positive(value: Any, argument: str = "k") -> int:
    """Return a positive integer; raises UserError for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UserError(f"{argument} is {reprlib.repr(value)}; expected a positive integer")
    return number
