"""Items that a request names: lists of ids for all histories (`include`, `exclude`), or for each, and items seen.

Shapes: V items, Q histories.
"""

import reprlib
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from twotower.core.arrays import Ints, Mask
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.serving.catalogue import Catalogue
from twotower.serving.unknown import Unknown

LISTS = (list, tuple, np.ndarray, AbstractSet)


def apply_lists(mask: Mask | None, include: Any, exclude: Any, catalogue: Catalogue, unknown: Unknown) -> Mask | None:
    """Narrow a mask [V] of allowed items (None: all) by lists of ids; `mask` itself is not written to.

    Args:
        mask: what filters allow.
        include: ids that results must be among; an empty list allows nothing. None: any.
        exclude: ids that results must not have; None: none.
        catalogue: the bundle's ids.
        unknown: gets the ids that the catalogue lacks; nothing else is done with them.

    Raises:
        UserError: `include` or `exclude` is no list of ids, or all of its ids have another type than the catalogue's.
    """
    if include is not None:
        included = np.zeros(len(catalogue.ids), dtype=bool)
        included[_rows(include, "include", catalogue, unknown)] = True
        mask = included if mask is None else included & mask
    excluded = _rows([] if exclude is None else exclude, "exclude", catalogue, unknown)
    if len(excluded):
        mask = np.ones(len(catalogue.ids), dtype=bool) if mask is None else mask.copy()
        mask[excluded] = False
    return mask


def rows_by_history(exclude: Any, number: int, catalogue: Catalogue, unknown: Unknown) -> list[Ints] | None:
    """Return [Q] rows to leave out of each history's results; None where `exclude` is not one list per history.

    Raises:
        UserError: `exclude` has lists beside ids, or not one for each of the `number` histories.
    """
    kinds = {*map(type, exclude)} if isinstance(exclude, list | tuple | np.ndarray) else set()
    if not any(issubclass(kind, LISTS) for kind in kinds):
        return None
    if len(exclude) != number or not all(issubclass(kind, LISTS) for kind in kinds):
        raise UserError(
            f"exclude is {reprlib.repr(exclude)}; expected a list of item ids, or one such list for each of the "
            f"{number} histories"
        )
    ids = [item for each in exclude for item in each]
    index = catalogue.item_index(ids, "exclude", unknown, each_time=True)
    rows = np.split(index, np.cumsum([len(each) for each in exclude])[:-1])
    return [each[each != PAD] - 1 for each in rows]


def _rows(ids: Any, argument: str, catalogue: Catalogue, unknown: Unknown) -> Ints:
    """Rows of the ids that the catalogue has."""
    if not isinstance(ids, LISTS):
        raise UserError(f"{argument} is {reprlib.repr(ids)}; expected a list of item ids")
    index = catalogue.item_index(list(ids), argument, unknown, each_time=True)
    rows: Ints = index[index != PAD] - 1
    return rows
