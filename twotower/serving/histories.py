"""Histories as a request brings them. Shapes: Q histories, E events of all of them together, one after the other."""

import operator
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.core.errors import UserError
from twotower.core.schema import ITEM_ID, PAD

Ints = npt.NDArray[np.int64]
ItemId = int | str
HISTORIES = "a list of histories, each a list of item ids or events, oldest first. For one history write [[...]]"
ITEMS = "a list of item ids"


class Known(NamedTuple):
    """What a catalogue knows of Q histories: E events, history after history, oldest first."""

    item_index: Ints  # [E] none of them PAD
    codes: Ints  # [E, K]
    length: Ints  # [Q]; 0: nothing is known

    @property
    def end(self) -> Ints:
        """[Q] just after each history's newest event."""
        return np.cumsum(self.length)


class Catalogue:
    """Ids and rows of the items.

    A dictionary of all ids: about 100 bytes an item.
    """

    def __init__(self, item_ids: pa.Array) -> None:
        self.ids = np.array(item_ids.to_pylist(), dtype=object)  # [V]
        self._index_of = dict(zip(self.ids, range(1, len(self.ids) + 1), strict=True))

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of all ids."""
        return type(self.ids[0])

    def item_index(self, ids: list[Any], place: str) -> Ints:
        """[E] item_index, PAD where the catalogue does not have the item.

        Raises:
            UserError: an id is a list, or no id at all is of the catalogue's type; `place` says where they are from.
        """
        try:
            found = np.array([self._index_of.get(item, PAD) for item in ids], dtype=np.int64)
        except TypeError:  # unhashable
            raise UserError(f"{place} hold lists; expected item ids, as in [[1, 2], [3]]") from None
        if not found.any():
            self._check_types(ids, place)
        return found

    def _check_types(self, items: Iterable[Any], place: str) -> None:
        """Unknown items are normal; if none is even of the right type, the caller has mixed up something."""
        expected = str if self.id_type is str else Integral
        wrong = None
        for item in items:
            if isinstance(item, expected):
                return
            wrong = item
        if wrong is not None:
            raise UserError(
                f"no id in the {place} is of type {self.id_type.__name__}: {wrong!r} is of type "
                f"{type(wrong).__name__}, the catalogue has ids like {self.ids[0]!r}; convert them"
            )


def known_events(catalogue: Catalogue, ids: list[Any], codes: Ints, length: Ints) -> Known:
    """Leave out what the catalogue does not have: ids [E] with codes [E, K] of histories of `length` [Q] events."""
    events = catalogue.item_index(ids, "histories")
    known = events != PAD
    session = np.repeat(np.arange(len(length)), length)
    return Known(events[known], codes[known], np.bincount(session[known], minlength=len(length)))


def flatten(histories: Any) -> tuple[list[Any], Ints]:
    """All histories' events [E] in a row, and how many each has [Q]."""
    lists = [as_list(history, f"histories[{i}]") for i, history in enumerate(as_list(histories, "histories"))]
    length = np.array([len(items) for items in lists], dtype=np.int64)
    return [item for items in lists for item in items], length


def as_list(value: Any, name: str, expected: str = HISTORIES) -> list[Any]:
    """A list of what is one; raises UserError for a text, a mapping and what else is none."""
    if isinstance(value, str | bytes | Mapping | AbstractSet) or not isinstance(value, Iterable):
        raise UserError(f"{name} is {value!r}; expected {expected}")
    return list(value)


def as_context(value: Any) -> dict[str, Any]:
    """What holds for all events of a request; {} for None. Raises UserError for what is no mapping or names an item."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f'context is {value!r}; expected an object, as in {{"device": "phone"}}')
    shared = dict(value or {})
    if ITEM_ID in shared:
        raise UserError(
            f"context has {ITEM_ID}; it says what all events of the request share, and each has its own item"
        )
    return shared


def positive(value: Any, name: str = "k") -> int:
    """A positive integer; raises UserError for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; expected a positive integer, the number of items to recommend")
    return number
