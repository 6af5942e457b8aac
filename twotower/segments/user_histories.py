"""Histories of many users or sessions in a bundle's item indices and codes, and their vectors.

They come from the run's prepared sessions, which have no ids, or from a file of events (segments.events_file), with the
ids of its users or sessions.

Shapes: S histories, E events of all of them, one history after the other and oldest first; e events and s histories of
a part; K event inputs, D embedding dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from twotower.core.errors import UserError
from twotower.core.event_codes import TIME, time_codes
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, ITEM_ID, PAD, USER_ID, Prepared, open_prepared
from twotower.runs.layout import DATA_FILE
from twotower.runs.run import require_same_data
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import rows_of
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
        start = 0
        while start < total:
            full = int(np.searchsorted(histories.offsets, histories.offsets[start] + EVENTS, side="right")) - 1
            stop = min(max(full, start + 1), start + HISTORIES, total)
            yield start, stop
            bar.update(stop - start)
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


def prepared_sessions(run_path: Path, check: bool = True) -> Prepared:
    """Open the prepared directory of a run; raises UserError where it is missing, or has other data now.

    Args:
        run_path: the run directory.
        check: whether to read all files and compare checksums.
    """
    try:
        prepared = open_prepared(read_json(run_path / DATA_FILE, "a run directory")["path"], check)
        require_same_data(run_path, prepared)
    except UserError as error:
        raise UserError(f"{error}; or take the histories from a file: events=events.parquet") from None
    return prepared


def run_sessions(bundle: Bundle, run_path: Path, newest: int | None = None) -> Histories:
    """Return the prepared sessions of a run: training, validation and test.

    Args:
        bundle: of that run.
        run_path: the run directory.
        newest: number of sessions, those that begin last; None: all.

    Raises:
        UserError: the prepared directory is missing, or has other data now.
    """
    prepared = prepared_sessions(run_path)
    total = len(prepared.offsets) - 1
    first = 0 if newest is None else max(0, total - newest)
    begin = int(prepared.offsets[first])
    offsets = np.asarray(prepared.offsets[first:]) - begin
    ids = pq.read_table(run_path / CATALOGUE_FILE, columns=[ITEM_ID])[ITEM_ID].combine_chunks()
    item_index = np.concatenate([[PAD], rows_of(ids.cast(bundle.item_ids.type), bundle.item_ids) + 1]).astype(np.int32)
    inputs = {name: prepared.timestamp if name == TIME else prepared.inputs[name] for name in bundle.inputs}

    def codes(start: int, stop: int) -> Ints:
        events = slice(begin + int(offsets[start]), begin + int(offsets[stop]))
        table = np.empty((events.stop - events.start, len(inputs)), dtype=np.int64)
        for k, (name, column) in enumerate(inputs.items()):
            table[:, k] = time_codes(column[events]) if name == TIME else column[events]
        return table

    types = prepared.event_types
    return Histories(
        POSITION,
        pa.array(np.arange(first, total)),
        item_index[prepared.item_index[begin:]],
        offsets,
        prepared.event_type[begin:],
        types if len(types) > 1 else [],
        codes,
    )
