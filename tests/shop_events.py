"""A bundle of random weights and events of a shop's users, as Parquet and as plain lists. Shapes: S users, E events."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from item_catalogue import Raw, arrays_of, fitted, learnt_model, raw_items
from model_bundle import write_model_bundle

from twotower.model.item_tower.id import IdItemTower

ITEMS = 30
TYPES = ["view", "cart", "purchase"]


class Shop(NamedTuple):
    path: Path
    ids: list[Any]
    raw: Raw  # empty without features


MADE: dict[Any, Shop] = {}


class Event(NamedTuple):
    user_id: Any
    item_id: Any
    event_type: str
    timestamp: int  # milliseconds


def make_shop(folders: pytest.TempPathFactory, kind: type = str, features: bool = True, normalize: bool = True) -> Shop:
    """A bundle of ITEMS items, its ids in the catalogue's order. It is made once: leave it so."""
    key = (str(folders.getbasetemp()), kind, features, normalize)
    if key not in MADE:
        raw = raw_items(ITEMS, 0)
        encoders = fitted(raw)
        arrays = arrays_of(encoders, raw)
        model = learnt_model(arrays, ITEMS, normalize=normalize)
        if not features:
            model.item_tower = IdItemTower(ITEMS, 8, model.normalize)
            raw, encoders, arrays = {}, {}, {}
        ids = [kind(100 + 7 * i) for i in range(ITEMS)]
        directory = folders.mktemp("shop") / "bundle"
        MADE[key] = Shop(write_model_bundle(directory, model, ids, [1] * ITEMS, raw, encoders, arrays), ids, raw)
    return MADE[key]


def make_events(ids: Sequence[Any], users: Sequence[Any], seed: int = 0, unknown: Any = None) -> list[Event]:
    """Of each user one event to ten, in no order; with `unknown` some are of that item."""
    random = np.random.default_rng(seed)
    events = []
    for user in users:
        for _ in range(random.integers(1, 11)):
            item = ids[random.integers(len(ids))] if unknown is None or random.random() > 0.2 else unknown
            time = 1_700_000_000_000 + int(random.integers(0, 1000)) * 1000
            events.append(Event(user, item, TYPES[random.integers(3)], time))
    return [events[i] for i in random.permutation(len(events))]


def write_events(file: Path, events: Sequence[Event]) -> Path:
    pq.write_table(pa.Table.from_pylist([event._asdict() for event in events]), file)
    return file


def by_user(events: Sequence[Event]) -> dict[Any, list[Event]]:
    """Each user's events, oldest first, in the order in which the users come in the file."""
    found: dict[Any, list[Event]] = {}
    for event in events:
        found.setdefault(event.user_id, []).append(event)
    return {user: sorted(mine, key=lambda event: event.timestamp) for user, mine in found.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
