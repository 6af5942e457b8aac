"""Which items may be an answer: predicates over the columns of items.parquet, and lists of ids.

The language of predicates is that of serving.predicates. Shapes: V items, T values of all items in a column, U
different ones among them.
"""

import json
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.core.errors import UserError, nearest
from twotower.core.schema import EMBEDDING, PAD
from twotower.serving.histories import Catalogue
from twotower.serving.lists import Cap, Groups, check_limit, groups_of
from twotower.serving.predicates import ANY, NOT, Kind, Predicate, checked

Mask = npt.NDArray[np.bool_]
MASKS = 8  # of predicates that are kept, V bytes each: shops ask the same few again and again


class Numbers(NamedTuple):
    """A column of numbers."""

    values: npt.NDArray[Any]  # [V] int64 or float64
    is_null: Mask  # [V]


Column = Numbers | Groups


class ItemFilter:
    """Masks of the items; safe to share between threads.

    A column is read when a request first names it, and kept: 8 bytes an item of numbers; of texts 8 bytes an item,
    4 a value, and the different texts.

    Args:
        file: items.parquet.
        catalogue: its ids.
    """

    def __init__(self, file: Path, catalogue: Catalogue) -> None:
        self._file = file
        self._catalogue = catalogue
        self._kinds = {field.name: _kind(field.type) for field in pq.read_schema(file) if field.name != EMBEDDING}
        self._columns: dict[str, Column] = {}
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._lock = Lock()

    def allowed(self, predicate: Any = None, include: Any = None, exclude: Any = None) -> Mask | None:
        """[V] the items that a request allows, not to be written to; None where it allows all.

        Args:
            predicate: see serving.predicates; None: any item.
            include: ids, one of which an item must have; an empty list allows nothing. None: any.
            exclude: ids that it must not have. Ids that the catalogue does not have are ignored in both.

        Raises:
            UserError: a predicate that can't be read, or ids that are no list or all of another type.
        """
        mask = None if predicate is None else self._satisfied(checked(predicate, self._kinds))
        if include is not None:
            included = np.zeros(len(self._catalogue.ids), dtype=bool)
            included[self._rows(include, "include")] = True
            mask = included if mask is None else included & mask
        excluded = self._rows([] if exclude is None else exclude, "exclude")
        if len(excluded):
            mask = np.ones(len(self._catalogue.ids), dtype=bool) if mask is None else mask.copy()
            mask[excluded] = False
        return mask

    def caps(self, max_per: Any) -> list[Cap]:
        """At most so many answers with one value of a column, as {"brand": 2}; None or {}: no caps.

        Raises:
            UserError: no mapping, a column that the items do not have, or a limit that is no positive integer.
        """
        if max_per is not None and not isinstance(max_per, Mapping):
            raise UserError(f'max_per is {reprlib.repr(max_per)}; expected an object, as in {{"brand": 2}}')
        caps = []
        for name, limit in (max_per or {}).items():
            if self._kinds.get(name) != "text":
                texts = [column for column, kind in self._kinds.items() if kind == "text"]
                hint = nearest(str(name)[:100], texts)
                raise UserError(
                    f"max_per names {reprlib.repr(name)}; it can name {', '.join(texts) or 'nothing here'}{hint}"
                )
            groups = self._column(name)
            assert isinstance(groups, Groups)
            caps.append(Cap(groups, check_limit(name, limit)))
        return caps

    def _rows(self, ids: Any, place: str) -> npt.NDArray[np.int64]:
        """Rows of the ids that the catalogue has."""
        if not isinstance(ids, list | tuple | np.ndarray | AbstractSet):
            raise UserError(f"{place} is {reprlib.repr(ids)}; expected a list of item ids")
        index = self._catalogue.item_index(list(ids), place)
        rows: npt.NDArray[np.int64] = index[index != PAD] - 1
        return rows

    def _satisfied(self, predicate: Predicate) -> Mask | None:
        """[V], of the few that are kept or computed; None where the predicate asks for nothing."""
        if not predicate:
            return None
        key = json.dumps(predicate, sort_keys=True)
        with self._lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        mask = satisfied(predicate, self._column, len(self._catalogue.ids))  # outside the lock: others need not wait
        mask.flags.writeable = False
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        return mask

    def _column(self, name: str) -> Column:
        if name not in self._columns:  # two threads may read it at the same time: to no harm
            values = pq.read_table(self._file, columns=[name])[name]
            self._columns[name] = numbers_of(values) if self._kinds[name] == "number" else groups_of(values)
        return self._columns[name]


def satisfied(predicate: Predicate, column: Callable[[str], Column], num_items: int) -> Mask:
    """[V] for which items a checked predicate holds."""
    mask = np.ones(num_items, dtype=bool)
    for name, condition in predicate.items():
        if name == NOT:
            mask &= ~satisfied(condition, column, num_items)
        elif name == ANY:
            some = np.zeros(num_items, dtype=bool)
            for one in condition:
                some |= satisfied(one, column, num_items)
            mask &= some
        elif isinstance(condition, dict):
            mask &= _within(column(name), condition)
        else:
            mask &= _is_one_of(column(name), condition)
    return mask


def numbers_of(values: pa.ChunkedArray) -> Numbers:
    """Integers stay exact; NaN counts as null."""
    is_float = pa.types.is_floating(values.type)
    is_null = pc.is_null(values, nan_is_null=is_float).to_numpy()
    return Numbers(pc.fill_null(values, 0).to_numpy().astype(np.float64 if is_float else np.int64), is_null)


def _kind(kind: pa.DataType) -> Kind:
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "text"


def _within(column: Column, bounds: Mapping[str, float]) -> Mask:
    assert isinstance(column, Numbers)  # else the predicate had been refused
    mask: Mask = ~column.is_null
    if "min" in bounds:
        mask &= column.values >= bounds["min"]
    if "max" in bounds:
        mask &= column.values <= bounds["max"]
    return mask


def _is_one_of(column: Column, values: list[Any]) -> Mask:
    wanted = [value for value in values if value is not None]
    if isinstance(column, Numbers):
        mask: Mask = ~column.is_null & np.isin(column.values, _as_numbers(wanted, column.values.dtype))
        return mask | column.is_null if None in values else mask
    is_wanted = pc.is_in(column.values, value_set=pa.array(wanted, column.values.type)).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(is_wanted[column.codes])])
    mask = before[column.offsets[1:]] > before[column.offsets[:-1]]
    return mask | (np.diff(column.offsets) == 0) if None in values else mask


def _as_numbers(wanted: list[float], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Those that a column of this type can have."""
    if dtype == np.int64:
        limits = np.iinfo(np.int64)
        wanted = [int(value) for value in wanted if value == int(value) and limits.min <= value <= limits.max]
    return np.array(wanted, dtype=dtype)
