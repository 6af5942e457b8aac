"""Item ids of a bundle and the rows they stand in. Shapes: V items of the bundle, n ids that are looked up."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.arrays import Ints
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.core.values import TextForm
from twotower.serving.unknown import Unknown

ItemId = int | str


class Catalogue:
    """The bundle's item ids and their item_index, in a dictionary of about 100 bytes an item.

    Args:
        item_ids: [V] int64 or string.
        form: how ids are read.

    >>> Catalogue(pa.array(["a", "7"]), TextForm()).item_index([7.0, "unknown"], "items", Unknown())
    array([2, 0])
    """

    def __init__(self, item_ids: pa.Array, form: TextForm) -> None:
        self._form = form
        self.ids = np.array(item_ids.to_pylist(), dtype=object)  # [V]
        self._index_of = dict(zip(self.ids, range(1, len(self.ids) + 1), strict=True))

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of all ids."""
        return type(self.ids[0])

    def item_index(self, ids: list[Any], argument: str, unknown: Unknown, each_time: bool = False) -> Ints:
        """Return [n] item_index, PAD where the catalogue lacks the item; 12, 12.0 and "12" are one item.

        Args:
            ids: n ids as they arrived.
            argument: of the request that they are from, for messages.
            unknown: gets the ids that the catalogue lacks; `each_time` as in `Unknown.note`.

        Raises:
            UserError: an id is a list, or the catalogue has numbers and not a single id is one.
        """
        try:
            index = np.array([self._index_of.get(item, PAD) for item in ids], dtype=np.int64)
        except TypeError:  # unhashable
            raise UserError(f"{argument} hold lists; expected item ids, as in [[1, 2], [3]]") from None
        missing = np.flatnonzero(index == PAD).tolist()
        if missing:
            keys = {i: self._key(ids[i]) for i in missing}
            index[missing] = [self._index_of.get(key, PAD) for key in keys.values()]
            if len(missing) == len(ids) and set(keys.values()) == {None}:  # unknown items are normal, this is a mistake
                raise UserError(
                    f"no id in the {argument} is of type {self.id_type.__name__}: {ids[-1]!r} is of type "
                    f"{type(ids[-1]).__name__}, the catalogue has ids like {self.ids[0]!r}; convert them"
                )
            lacking = [ids[i] for i in missing if index[i] == PAD]
            if lacking:
                unknown.note(f"ids in {argument}", lacking, len(ids), f"ids like {self.ids[0]!r}", each_time)
        return index

    def has(self, item: Any) -> bool:
        """Whether an id, as it arrived, is of the catalogue."""
        return item in self._index_of or self._key(item) in self._index_of

    def _key(self, item: Any) -> ItemId | None:
        """The id as the catalogue has it; None where it can't be one."""
        text = self._form.id(item)
        if text is None or self.id_type is str:
            return text
        is_whole = re.fullmatch("-?(0|[1-9][0-9]{0,18})", text)
        return int(text) if is_whole else None


def rows_of(ids: pa.Array, item_ids: pa.Array) -> Ints:
    """Return [n] the rows of `ids` [n] among the bundle's `item_ids` [V], -1 where an id is not among them."""
    rows: Ints = pc.fill_null(pc.index_in(ids, value_set=item_ids), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return rows
