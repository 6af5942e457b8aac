"""Ids and other values as integers: item ids that are numbers, codes as they appear, ranks; and ids that are alike."""

from collections.abc import Collection

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.values import STEPS
from twotower.data.text_form import HEAL

FEW = 64  # values that are faster looked up as an enumeration than by a join


def normalise_item_ids(values: pl.Series) -> pl.Series:
    """Convert item ids to Int64 where each of them is a whole number, else leave them as strings.

    "012" is a string.
    """
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    whole = values.cast(pl.Int64, strict=False)
    same = whole.null_count() == values.null_count() and (whole.cast(pl.String) == values).all()
    return whole if same else values


def similar_ids(values: pl.Series, healed: Collection[str]) -> dict[str, tuple[int, str, str]]:
    """Count groups of ids that differ only by what one of core.values.STEPS removes, with two of them as an example.

    Args:
        values: distinct ids; numbers have none.
        healed: steps that were applied already.
    """
    found = {}
    for step in (step for step in STEPS if step not in healed and values.dtype == pl.String):
        frame = pl.DataFrame([values.alias("id"), HEAL[step](values).alias("key")])
        if (frame["id"] != frame["key"]).any():
            groups = frame.drop_nulls().filter(pl.len().over("key") > 1).sort("key", "id")
            if groups.height:
                found[step] = (groups["key"].n_unique(), *groups["id"].head(2))
    return found


class Dictionary:
    """Codes for the values of a column, from 1 as they appear; 0 is null.

    Args:
        values: those that have codes already, from 1; none: they may be of any type.

    >>> Dictionary().encode(pl.Series(["b", None, "b"])).to_list()
    [1, 0, 1]
    """

    def __init__(self, values: pl.Series | None = None) -> None:
        self._table = pl.DataFrame()
        if values is not None and len(values):
            codes = pl.int_range(1, len(values) + 1, dtype=pl.UInt32, eager=True)
            self._table = pl.DataFrame([values.alias("value"), codes.alias("code")])

    def encode(self, column: pl.Series) -> pl.Series:
        """Return UInt32 codes [E] of the values [E]; values not seen before get new codes."""
        values = column.rename("value")
        if self._table.width == 0:
            self._table = values.clear().to_frame().with_columns(code=pl.lit(0, pl.UInt32))
        codes = self._look_up(values)
        if codes.null_count() > values.null_count():
            missing = codes.is_null().arg_true()
            new = values.gather(missing).drop_nulls().unique()
            first = self._table.height + 1
            numbers = pl.int_range(first, first + len(new), dtype=pl.UInt32)
            self._table = self._table.vstack(new.to_frame().with_columns(code=numbers)).rechunk()
            codes = codes.scatter(missing, self._look_up(values.gather(missing)))
        return codes.fill_null(0).alias(column.name)

    def _look_up(self, values: pl.Series) -> pl.Series:
        if values.dtype == pl.String and self._table.height <= FEW:
            places = values.cast(pl.Enum(self._table["value"]), strict=False).to_physical()
            return places.cast(pl.UInt32) + 1
        return values.to_frame().join(self._table, on="value", how="left", maintain_order="left")["code"]

    @property
    def values(self) -> pl.Series:
        """The distinct values, by code from 1."""
        return self._table["value"] if self._table.width else pl.Series("value", [], pl.String)


def ranks(values: pl.Series) -> tuple[pl.Series, Array]:
    """Sort the values of a dictionary, so that nothing depends on the order in which they appeared.

    Returns:
        The distinct values in ascending order, and [codes + 1] the rank of each code among them, from 1; 0 stays 0.
    """
    rank = values.rank("dense").cast(pl.UInt32).to_numpy()
    return values.unique().sort(), np.concatenate([np.zeros(1, np.uint32), rank])
