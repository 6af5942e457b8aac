"""Ids and other values as integers: one form of item ids, codes in order of appearance, ranks in order of value."""

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.schema import ITEM_ID

FEW = 64  # values that are faster looked up as an enumeration than by a join
WHOLE = r"^[+-]?[0-9]+(\.0+)?$"


def normalise_item_ids(values: pl.Series) -> pl.Series:
    """Convert item ids to Int64 where each of them is a whole number, else leave them as strings.

    "12.0", from a column that was once floating point, is the number 12; "012" is a string.
    """
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    digits = values.str.strip_suffix(".0")
    whole = digits.cast(pl.Int64, strict=False)
    same = whole.null_count() == values.null_count() and (whole.cast(pl.String) == digits).all()
    return whole if same else values


def item_id_key(catalogue_ids: pl.Series) -> pl.Expr:
    """Expression for ITEM_ID as text, by which a table's items are joined to those of the catalogue.

    12, 12.0 and "12.0" are one item where all ids of the catalogue are whole numbers.
    """
    text = pl.col(ITEM_ID).cast(pl.String)
    if not catalogue_ids.cast(pl.String).str.contains(WHOLE).all():
        return text
    return pl.when(text.str.contains(WHOLE)).then(text.str.replace(r"\.0+$", "")).otherwise(text)


class Dictionary:
    """Codes for the values of a column, from 1 as they appear; 0 is null.

    >>> Dictionary().encode(pl.Series(["b", None, "b"])).to_list()
    [1, 0, 1]
    """

    def __init__(self) -> None:
        self._table = pl.DataFrame()

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
