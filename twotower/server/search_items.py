"""Search a catalogue by words in ids and text features. Shapes: V items."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.arrays import Ints
from twotower.core.schema import ITEM_ID


class ItemSearch:
    """Finds items all words of a text occur in, whatever their case; the most frequent in training first.

    Memory: the texts of all items.

    >>> table = pa.table({"item_id": ["a", "b"], "train_count": [1, 2], "name": ["Red Shoe", "Blue shoe"]})
    >>> [row["item_id"] for row in ItemSearch(table).search("shoe", 10)[0]]
    ['b', 'a']
    """

    def __init__(self, columns: pa.Table) -> None:
        self._columns = columns.sort_by([("train_count", "descending")])
        texts = [pc.utf8_lower(columns_text(self._columns[name])) for name in text_columns(columns)]
        self._text = pc.binary_join_element_wise(*texts, " ", null_handling="skip")
        self._order = {item: row for row, item in enumerate(self._columns[ITEM_ID].to_pylist())}

    def search(self, text: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return the first items as JSON, and how many there are."""
        found = pa.array([True] * len(self._columns))
        for word in text.lower().split():
            found = pc.and_(found, pc.match_substring(self._text, word))
        rows: Ints = pc.indices_nonzero(found)
        return self._columns.take(rows[:limit]).to_pylist(), len(rows)

    def item(self, item_id: Any) -> dict[str, Any] | None:
        """Return an item with its features; None where the catalogue lacks it."""
        row = self._order.get(item_id)
        return None if row is None else self._columns.slice(row, 1).to_pylist()[0]


def text_columns(columns: pa.Table) -> list[str]:
    """Names of the id and of the columns that hold texts, or lists of them."""
    return [
        field.name
        for field in columns.schema
        if field.name == ITEM_ID or pa.types.is_string(getattr(field.type, "value_type", None) or field.type)
    ]


def columns_text(column: pa.ChunkedArray) -> pa.Array:
    """A column as texts; a list becomes its elements with spaces between."""
    whole = column.combine_chunks()
    if pa.types.is_list(whole.type) or pa.types.is_large_list(whole.type):
        return pc.binary_join(whole, " ").cast(pa.string())
    return whole.cast(pa.string())
