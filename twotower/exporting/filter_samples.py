"""Sample filters as a shop would set them, to measure at export what the index finds under them. Shapes: V items."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from twotower.core.arrays import Mask
from twotower.core.schema import ITEM_ID, ITEM_NAME
from twotower.serving.item_columns import category_column, is_number, number_column

SHARES = (0.5, 0.1, 0.01)  # of the items: a value about as frequent as each is taken


def sample_filters(items: pa.Table, least: int) -> Mapping[str, Mask]:
    """Return masks [V] of allowed items, by the filter in words.

    For each column of texts the values nearest to SHARES of the items, for each column of numbers the middle half.

    Args:
        items: [V] the columns of items.parquet.
        least: items that a filter must allow; one that allows all is left out, too.
    """
    masks: dict[str, Mask] = {}
    for name in items.column_names:
        if name in (ITEM_ID, ITEM_NAME):  # no two items share them
            continue
        if is_number(items[name].type):
            numbers = number_column(items[name])
            present = numbers.values[~numbers.is_null]
            if len(present):
                low, high = np.quantile(present, [0.25, 0.75], method="nearest")
                inside = ~numbers.is_null & (numbers.values >= low) & (numbers.values <= high)
                masks[f"{name} from {low:g} to {high:g}"] = inside
            continue
        groups = category_column(items[name])
        item = np.repeat(np.arange(items.num_rows), np.diff(groups.offsets))
        count = np.bincount(groups.codes, minlength=len(groups.values))
        for code in sorted({int(np.abs(count / items.num_rows - share).argmin()) for share in SHARES if len(count)}):
            mask = np.zeros(items.num_rows, dtype=bool)
            mask[item[groups.codes == code]] = True
            masks[f"{name} = {groups.values[code].as_py()}"] = mask
    return {name: mask for name, mask in masks.items() if least <= np.count_nonzero(mask) < items.num_rows}
