"""Items that a request leaves out by name: lists of ids (`include`, `exclude`), and items seen (`exclude_seen`).

Shapes: V items, m ranked candidates of one query.
"""

import reprlib
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from twotower.core.arrays import Ints, Mask
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.serving.catalogue import Catalogue


def apply_lists(mask: Mask | None, include: Any, exclude: Any, catalogue: Catalogue) -> Mask | None:
    """Narrow a mask [V] of allowed items (None: all) by lists of ids; `mask` itself is not written to.

    Args:
        mask: what filters allow.
        include: ids that results must be among; an empty list allows nothing. None: any.
        exclude: ids that results must not have; None: none. Unknown ids are ignored in both.
        catalogue: the bundle's ids.

    Raises:
        UserError: `include` or `exclude` is no list of ids, or all of its ids have another type than the catalogue's.
    """
    if include is not None:
        included = np.zeros(len(catalogue.ids), dtype=bool)
        included[_rows(include, "include", catalogue)] = True
        mask = included if mask is None else included & mask
    excluded = _rows([] if exclude is None else exclude, "exclude", catalogue)
    if len(excluded):
        mask = np.ones(len(catalogue.ids), dtype=bool) if mask is None else mask.copy()
        mask[excluded] = False
    return mask


def _rows(ids: Any, argument: str, catalogue: Catalogue) -> Ints:
    """Rows of the ids that the catalogue has."""
    if not isinstance(ids, list | tuple | np.ndarray | AbstractSet):
        raise UserError(f"{argument} is {reprlib.repr(ids)}; expected a list of item ids")
    index = catalogue.item_index(list(ids), argument)
    rows: Ints = index[index != PAD] - 1
    return rows


def unseen_places(rows: Ints, seen: Ints) -> Ints:
    """Return the places in candidate rows [m] of items that are not among the history's rows `seen`."""
    return np.flatnonzero(~np.isin(rows, seen))
