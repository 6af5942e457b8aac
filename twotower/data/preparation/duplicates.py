"""Removal of duplicate rows: rows that equal another one in every column but their place in the file."""

import numpy as np
import polars as pl

from twotower.core.schema import TIMESTAMP
from twotower.data.preparation.spill import KEY
from twotower.data.readers.source import PLACE


def drop_duplicate_rows(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Keep the first of identical rows; `rows` are sorted by KEY and TIMESTAMP, and only rows that share both compared.

    Returns:
        The other rows in their order, and how many were removed.
    """
    same = (pl.col(KEY) == pl.col(KEY).shift(1)) & (pl.col(TIMESTAMP) == pl.col(TIMESTAMP).shift(1))
    same = same.fill_null(False)
    tied = rows.select(same | same.shift(-1, fill_value=False)).to_series().arg_true()
    if len(tied) == 0:
        return rows, 0
    duplicate = rows[tied].drop(PLACE).select(~pl.struct(pl.all()).is_first_distinct()).to_series()
    keep = np.ones(rows.height, dtype=bool)
    keep[tied.filter(duplicate).to_numpy()] = False
    return rows.filter(pl.Series(keep)) if duplicate.any() else rows, int(duplicate.sum())
