"""Why an item is recommended: the share of each event of a history in an item's score.

An event's share is the mean of what it adds to the score in two orders: where the history grows from its oldest event
to its newest, and where it grows from the newest backwards. So the shares of a history add up to the score, an event
that changes nothing has none, and any user tower can be explained. It is the Shapley value (Lundberg & Lee 2017,
arXiv:1705.07874) with two orders in place of all. What a pointer adds is in it.

Shapes: Q histories, L given events of one, M those that the model sees, k items, V items of the catalogue.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from twotower.core.arrays import Floats, Ints, Mask
from twotower.core.errors import UserError
from twotower.core.event_codes import AT_ONCE
from twotower.core.schema import ITEM_ID
from twotower.serving.catalogue import Catalogue
from twotower.serving.histories import KnownEvents
from twotower.serving.users import Users

LISTS_OF_ITEMS = "for each history one list of item ids, such as the ids of recommend's answer"


def explain(
    events: KnownEvents,
    is_known: Sequence[Mask],
    items: Sequence[Ints],
    table: Floats,
    max_length: int,
    encode: Callable[[KnownEvents], Users],
) -> list[Floats]:
    """Return [k, L] of each history: the share of each event in the score of each item.

    0 for events of unknown items and for those before the newest `max_length`; NaN for items that the catalogue lacks.

    Args:
        events: of Q histories.
        is_known: [L] of each, whether the catalogue has an event's item.
        items: rows [k] for each, -1 for an item that the catalogue lacks.
        table: [V, D] item vectors.
        max_length: the most events that the model sees.
        encode: histories as the model does.

    Raises:
        UserError: there are not as many lists of items as histories.
    """
    if len(items) != len(is_known):
        raise UserError(f"items has {len(items)} lists for {len(is_known)} histories; expected one of ids for each")
    found = []
    moments = np.full(len(items), AT_ONCE) if events.now is None else events.now
    for end, length, now, known, rows in zip(events.end, events.length, moments, is_known, items, strict=True):
        shares = np.zeros((len(rows), len(known)), dtype=np.float32)
        if seen := min(length, max_length):
            window = slice(end - seen, end)
            shares[:, np.flatnonzero(known)[-seen:]] = _shares(
                events.item_index[window], events.codes[window], now, np.maximum(rows, 0), table, encode
            )
        shares[rows < 0] = np.nan
        found.append(shares)
    return found


def known_places(histories: Iterable[Iterable[Any]], catalogue: Catalogue) -> list[Mask]:
    """Return [L] of each history: whether the catalogue has an event's item."""
    ids = ([event[ITEM_ID] if isinstance(event, Mapping) else event for event in history] for history in histories)
    return [np.array([catalogue.has(item) for item in history], dtype=bool) for history in ids]


def _shares(
    item_index: Ints, codes: Ints, now: int, rows: Ints, table: Floats, encode: Callable[[KnownEvents], Users]
) -> Floats:
    """[k, M] of the M events of one history; every beginning and every end of it is encoded."""
    whole = np.arange(len(item_index))
    parts = [*(whole[: n + 1] for n in whole), *(whole[n:] for n in whole)]
    place = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts])
    users = encode(KnownEvents(item_index[place], codes[place], lengths, np.full(len(parts), now)))
    beginnings, ends = np.split(users.scores_of(rows, table), 2, axis=1)
    forward = np.diff(beginnings, axis=1, prepend=0)
    backward = -np.diff(ends, axis=1, append=0)
    return ((forward + backward) / 2).astype(np.float32, copy=False)
