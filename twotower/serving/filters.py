"""Filters: the mask of items that may be results, from predicates over the columns of items.parquet and lists of ids.

The language of predicates is that of serving.predicates. Shapes: V items.
"""

import json
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.core.arrays import Mask
from twotower.core.errors import UserError, nearest
from twotower.core.schema import EMBEDDING
from twotower.core.values import TextForm
from twotower.serving.caps import Cap
from twotower.serving.catalogue import Catalogue
from twotower.serving.exclusions import apply_lists
from twotower.serving.histories import positive
from twotower.serving.item_columns import CategoryColumn, NumberColumn, category_column, is_number, number_column
from twotower.serving.predicates import ANY, NOT, Predicate, checked
from twotower.serving.unknown import Unknown

Column = NumberColumn | CategoryColumn
Missing = tuple[str, list[Any], int, str | list[str]]  # what Unknown.note takes of a condition that no item satisfies
MASKS = 8  # of predicates that are kept, V bytes each: shops send the same few again and again


class ItemFilter:
    """Masks of allowed items; safe to share between threads.

    A column is read when a request first names it, and kept.

    Args:
        file: items.parquet.
        catalogue: its ids.
        unknown: gets ids and values that no item has.
        form: how texts are read.
    """

    def __init__(self, file: Path, catalogue: Catalogue, unknown: Unknown, form: TextForm) -> None:
        self._file, self._form = file, form
        self._catalogue = catalogue
        self._unknown = unknown
        types = {field.name: field.type for field in pq.read_schema(file) if field.name != EMBEDDING}
        self._is_number = {name: is_number(kind) for name, kind in types.items()}
        self._columns: dict[str, Column] = {}
        self._masks: OrderedDict[str, tuple[Mask, list[Missing]]] = OrderedDict()
        self._lock = Lock()

    def allowed(self, predicate: Any = None, include: Any = None, exclude: Any = None) -> Mask | None:
        """Return the mask [V] of items that a request allows, not to be written to; None where it allows all.

        Args:
            predicate: see serving.predicates; None: any item.
            include, exclude: see serving.exclusions.apply_lists.

        Raises:
            UserError: a malformed predicate, or ids that are no list or all of another type.
        """
        mask = None if predicate is None else self._satisfied(checked(predicate, self._is_number, self._form))
        return apply_lists(mask, include, exclude, self._catalogue, self._unknown)

    def caps(self, max_per: Any) -> list[Cap]:
        """Return the caps of `max_per`, as {"brand": 2}; None or {}: no caps.

        Raises:
            UserError: no mapping, a column of texts that the items do not have, or a limit that is no positive integer.
        """
        if max_per is not None and not isinstance(max_per, Mapping):
            raise UserError(f'max_per is {reprlib.repr(max_per)}; expected an object, as in {{"brand": 2}}')
        caps = []
        for name, limit in (max_per or {}).items():
            if self._is_number.get(name, True):
                texts = [column for column, is_number in self._is_number.items() if not is_number]
                hint = nearest(str(name)[:100], texts)
                raise UserError(
                    f"max_per names {reprlib.repr(name)}; it can name {', '.join(texts) or 'nothing here'}{hint}"
                )
            column = self._column(name)
            assert isinstance(column, CategoryColumn)
            caps.append(Cap(column, positive(limit, f"max_per of '{name}'")))
        return caps

    def _satisfied(self, predicate: Predicate) -> Mask | None:
        """[V] a kept mask or a new one; None where the predicate has no condition."""
        if not predicate:
            return None
        key = json.dumps(predicate, sort_keys=True)
        with self._lock:
            kept = self._masks.get(key)
        if kept is None:  # computed outside the lock: others need not wait
            missing: list[Missing] = []
            kept = satisfied(predicate, self._column, len(self._catalogue.ids), missing), missing
            kept[0].flags.writeable = False
        with self._lock:
            self._masks[key] = kept
            self._masks.move_to_end(key)
            while len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        for each in kept[1]:
            self._unknown.note(*each, each_time=True)
        return kept[0]

    def _column(self, name: str) -> Column:
        if name not in self._columns:  # two threads may read it at the same time, which does no harm
            values = pq.read_table(self._file, columns=[name])[name]
            self._columns[name] = number_column(values) if self._is_number[name] else category_column(values)
        return self._columns[name]


def satisfied(predicate: Predicate, column: Callable[[str], Column], num_items: int, missing: list[Missing]) -> Mask:
    """Return [V] for which items a checked predicate holds.

    Args:
        predicate: of `checked`.
        column: gives the items' column by name.
        num_items: V.
        missing: gets the ranges and the values that no item has.
    """
    mask = np.ones(num_items, dtype=bool)
    for name, condition in predicate.items():
        if name == NOT:
            mask &= ~satisfied(condition, column, num_items, missing)
        elif name == ANY:
            masks = [satisfied(alternative, column, num_items, missing) for alternative in condition]
            mask &= np.logical_or.reduce(masks, axis=0) if masks else False
        else:
            is_range = isinstance(condition, dict)
            holds = (_within if is_range else _is_one_of)(column(name), condition)
            mask &= holds
            lacking = ([] if holds.any() else [condition]) if is_range else _lacking(column(name), condition, holds)
            if lacking:
                number = 1 if is_range else len(condition)
                missing.append((f"filter of {name}", lacking, number, _known(column(name))))
    return mask


def _within(column: Column, bounds: Mapping[str, float]) -> Mask:
    assert isinstance(column, NumberColumn)  # `checked` refuses bounds of texts
    mask: Mask = ~column.is_null
    if "min" in bounds:
        mask &= column.values >= bounds["min"]
    if "max" in bounds:
        mask &= column.values <= bounds["max"]
    return mask


def _is_one_of(column: Column, values: list[Any]) -> Mask:
    wanted = [value for value in values if value is not None]
    if isinstance(column, NumberColumn):
        mask: Mask = ~column.is_null & np.isin(column.values, _as_numbers(wanted, column.values.dtype))
        return mask | column.is_null if None in values else mask
    is_wanted = pc.is_in(column.values, value_set=pa.array(wanted, column.values.type)).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(is_wanted[column.codes])])
    mask = before[column.offsets[1:]] > before[column.offsets[:-1]]
    return mask | (np.diff(column.offsets) == 0) if None in values else mask


def _lacking(column: Column, values: list[Any], mask: Mask) -> list[Any]:
    """Those of the values that no item has; `mask` [V] is where an item has one of them."""
    if isinstance(column, NumberColumn):
        present = {*np.unique(column.values[mask & ~column.is_null]).tolist()}
        has_null = bool(column.is_null.any())
    else:
        wanted = pa.array([value for value in values if value is not None], column.values.type)
        present = {*wanted.filter(pc.is_in(wanted, value_set=column.values)).to_pylist()}
        has_null = bool((np.diff(column.offsets) == 0).any())
    return [value for value in values if (not has_null if value is None else value not in present)]


def _known(column: Column) -> str | list[str]:
    """The values of the items, numbers in words."""
    if isinstance(column, CategoryColumn):
        return list(column.values.to_pylist())
    values = column.values[~column.is_null]
    return f"numbers from {values.min():g} to {values.max():g}" if len(values) else "no value, as no item has one"


def _as_numbers(wanted: list[float], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values that a column of this type can hold."""
    if dtype == np.int64:
        limits = np.iinfo(np.int64)
        wanted = [int(value) for value in wanted if value == int(value) and limits.min <= value <= limits.max]
    return np.array(wanted, dtype=dtype)
