"""Item ids of a bundle and the rows they stand in. Shapes: V items of the bundle, n ids that are looked up."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.arrays import Ints
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.serving.unknown import Unknown

ItemId = int | str


class Catalogue:
    """The bundle's item ids and their item_index, in a dictionary of about 100 bytes an item.

    >>> Catalogue(pa.array(["a", "b"])).item_index(["b", "a"], "items", Unknown())
    array([2, 1])
    """

    def __init__(self, item_ids: pa.Array) -> None:
        self.ids = np.array(item_ids.to_pylist(), dtype=object)  # [V]
        self._index_of = dict(zip(self.ids, range(1, len(self.ids) + 1), strict=True))

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of all ids."""
        return type(self.ids[0])

    def item_index(self, ids: list[Any], argument: str, unknown: Unknown, each_time: bool = False) -> Ints:
        """Return [n] item_index, PAD where the catalogue lacks the item.

        Args:
            ids: n ids as they arrived.
            argument: of the request that they are from, for messages.
            unknown: gets the ids that the catalogue lacks; `each_time` as in `Unknown.note`.

        Raises:
            UserError: an id is a list, or not a single id has the catalogue's type.
        """
        try:
            index = np.array([self._index_of.get(item, PAD) for item in ids], dtype=np.int64)
        except TypeError:  # unhashable
            raise UserError(f"{argument} hold lists; expected item ids, as in [[1, 2], [3]]") from None
        if not index.all():
            if not index.any():
                self._check_types(ids, argument)
            lacking = [ids[place] for place in np.flatnonzero(index == PAD)]
            unknown.note(f"ids in {argument}", lacking, len(ids), f"ids like {self.ids[0]!r}", each_time)
        return index

    def _check_types(self, ids: Iterable[Any], argument: str) -> None:
        """Unknown items are normal; ids that all have another type than the catalogue's are a mistake."""
        expected = str if self.id_type is str else Integral
        other = None
        for item in ids:
            if isinstance(item, expected):
                return
            other = item
        if other is not None:
            raise UserError(
                f"no id in the {argument} is of type {self.id_type.__name__}: {other!r} is of type "
                f"{type(other).__name__}, the catalogue has ids like {self.ids[0]!r}; convert them"
            )


def rows_of(ids: pa.Array, item_ids: pa.Array) -> Ints:
    """Return [n] the rows of `ids` [n] among the bundle's `item_ids` [V], -1 where an id is not among them."""
    rows: Ints = pc.fill_null(pc.index_in(ids, value_set=item_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows
