"""The catalogue: which items exist for the model, and their rows."""

import numpy as np
import polars as pl

from twotower.data.splits import TEST, TRAIN
from twotower.errors import UserError
from twotower.schema import ITEM_ID

PART = "part"  # 0 train, 1 validation, 2 test


def build_catalogue(events: pl.DataFrame) -> pl.DataFrame:
    """The items of the events before the test, sorted by id: row r is item_index r + 1.

    Validation is cut from the training data, so its items are known; an item that only the test has seen
    is not. `train_count` counts training events alone.

    Returns:
        A frame [V] of ITEM_ID and train_count.

    Raises:
        UserError: fewer than two items.
    """
    known = events.filter(pl.col(PART) != TEST)
    catalogue = known.group_by(ITEM_ID).agg(train_count=(pl.col(PART) == TRAIN).sum().cast(pl.Int64))
    if catalogue.height < 2:
        raise UserError(
            f"before the test there are {catalogue.height} different items; ranking needs at least 2. "
            "Is data.columns.item_id right?"
        )
    return catalogue.sort(ITEM_ID)


def item_indices(events: pl.DataFrame, catalogue: pl.DataFrame) -> pl.Series:
    """[E] each event's row in the catalogue from 1; null where the item is not in it."""
    rows = catalogue.select(ITEM_ID, index=pl.Series(np.arange(1, catalogue.height + 1)))
    return events.select(ITEM_ID).join(rows, on=ITEM_ID, how="left", maintain_order="left")["index"]
