"""Histories of many users or sessions in a bundle's item indices and codes, and their vectors.

They come from the run's prepared sessions (segments.prepared_sessions), which have no ids, or from a file of events
(segments.events_file), with the ids of its users or sessions.

Shapes: S histories, E events of all of them, one history after the other and oldest first; e events and s histories of
a part; K event inputs, D embedding dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from twotower.core.errors import UserError
from twotower.core.schema import PAD, USER_ID
from twotower.serving.bundle import Bundle
from twotower.serving.histories import KnownEvents
from twotower.serving.user_tower import encode_histories
from twotower.serving.users import Users

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

POSITION = "position"  # among the prepared sessions, which have no ids
HISTORIES, EVENTS = 2**13, 2**16  # of a part, at most; a longer history is a part of its own


@dataclass(frozen=True)
class Histories:
    """S histories in about 5 bytes an event, 16 a history, and what `codes` needs."""

    id_name: str  # USER_ID, SESSION_ID or POSITION
    ids: pa.Array  # [S] int64 or string
    item_index: Array  # [E] PAD where the bundle does not have the item
    offsets: Ints  # [S + 1]
    event_type: Array  # [E] position in event_types
    event_types: list[str]  # empty where events have no types
    codes: Callable[[int, int], Ints]  # histories start:stop -> [e, K] codes of their event inputs
    unusable: int = 0  # rows of a file without id, item, time or consent

    @property
    def whose(self) -> str:
        """The word for those whose histories they are."""
        return "users" if self.id_name == USER_ID else "sessions"


HistorySource = Callable[[Bundle], Histories]


def require_positive_integer(name: str, value: Any) -> None:
    """Raise UserError unless a setting is a positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={value!r}; expected a positive integer")


def require_floor(name: str, min_size: int, histories: Histories, known: int) -> None:
    """Raise UserError where fewer than `min_size` of the histories, `known`, have an item of the bundle."""
    if known < min_size:
        raise UserError(
            f"{known:,} of {len(histories.ids):,} {histories.whose} have an item of the bundle, fewer than "
            f"{name}={min_size}: nothing was written; give more events whose item ids are those of the catalogue, or "
            "set a lower floor if your rules on privacy allow it"
        )


def omissions(whose: str, unknown: int, unusable: int) -> str:
    """Return the lines of a report on histories and events that were left out."""
    text = f"\n{unknown:,} {whose} are in none: the bundle has no item of theirs" if unknown else ""
    return text + (f"\n{unusable:,} events were left out: no id, item, time or consent" if unusable else "")


def parts(histories: Histories, task: str) -> Iterator[tuple[int, int]]:
    """Yield the bounds start:stop of one part of the histories after the other, with a progress bar."""
    total = len(histories.ids)
    with tqdm(total=total, desc=task, unit=f" {histories.whose}", leave=False, disable=None) as bar:
        for start, stop in bounds(histories, 0, total):
            yield start, stop
            bar.update(stop - start)


def bounds(histories: Histories, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of parts of the histories start:end that have HISTORIES and EVENTS at most."""
    while start < end:
        full = int(np.searchsorted(histories.offsets, histories.offsets[start] + EVENTS, side="right")) - 1
        stop = min(max(full, start + 1), start + HISTORIES, end)
        yield start, stop
        start = stop


def known_events(histories: Histories, start: int, stop: int, coded: bool = False) -> tuple[KnownEvents, Array]:
    """Return the events of histories start:stop whose items the bundle has, and [e] their types; codes with `coded`."""
    begin, end = histories.offsets[start], histories.offsets[stop]
    item_index = histories.item_index[begin:end]
    known = item_index != PAD
    session = np.repeat(np.arange(stop - start), np.diff(histories.offsets[start : stop + 1]))
    codes = histories.codes(start, stop) if coded else np.zeros((end - begin, 0), dtype=np.int64)
    length = np.bincount(session[known], minlength=stop - start)
    return KnownEvents(item_index[known].astype(np.int64), codes[known], length), histories.event_type[begin:end][known]


def encode(bundle: Bundle, histories: Histories, start: int, stop: int) -> Users:
    """Encode the histories start:stop; vectors of NaN where no item is known."""
    known, _ = known_events(histories, start, stop, coded=True)
    max_length = int(bundle.manifest["max_length"])
    return encode_histories(bundle.tower, bundle.history_vectors, known, max_length)


def known_vectors(bundle: Bundle, histories: Histories, task: str) -> Iterator[tuple[Ints, Users]]:
    """Yield the indices and the encoded histories with a known item, one part after the other."""
    for start, stop in parts(histories, task):
        users = encode(bundle, histories, start, stop)
        known = np.flatnonzero(~np.isnan(users.vectors[:, 0]))
        yield start + known, users[known]
