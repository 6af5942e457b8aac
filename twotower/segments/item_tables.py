"""Tables of items that a batch is to leave out or to keep to, for all users or for each.

A table (Parquet, CSV or JSON Lines) has a column item_id; with a column user_id (or session_id) a row holds for this
user alone. Shapes: S histories, n rows of a table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from twotower.core.arrays import Ints
from twotower.core.errors import UserError, nearest
from twotower.core.matches import SAMPLE, Match
from twotower.core.schema import ITEM_ID
from twotower.core.values import TextForm
from twotower.data.readers.feature_table import scan_table
from twotower.data.readers.files import find_files, readable
from twotower.data.text_form import ids
from twotower.segments.user_histories import Histories
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import rows_of

TEXT = pa.large_string()  # all ids together may have more than 2 GiB


class Exclusions(NamedTuple):
    """Rows of the catalogue that each history's results must not have: 8 bytes a pair, and 8 a history."""

    rows: Ints  # [pairs] history after history
    offsets: Ints  # [S + 1]
    omitted: int  # rows of the tables without effect: of others than the histories' users, or of unknown items

    def of(self, start: int, stop: int) -> list[Ints]:
        """Return the catalogue rows of each of the histories start:stop."""
        begin, end = self.offsets[start], self.offsets[stop]
        return np.split(self.rows[begin:end], self.offsets[start + 1 : stop + 1] - begin)[:-1]


def read_item_lists(path: str, setting: str, key: str, form: TextForm) -> pl.DataFrame:
    """Return a table's columns item_id and, where it has it, `key`, as texts.

    Args:
        path: a file, a folder or a glob.
        setting: that names it, for messages.
        key: the column of users or sessions.
        form: how ids are read.

    Raises:
        UserError: the table can't be read or has no item_id.
    """
    parts = []
    for file in find_files(path, setting):
        with readable(file):
            table = scan_table(file)
            names = table.collect_schema().names()
            if ITEM_ID not in names:
                near = nearest(ITEM_ID, names)
                raise UserError(f"{setting}={file} has no column {ITEM_ID} (it has: {', '.join(names)}){near}")
            columns = table.select(name for name in (ITEM_ID, key) if name in names).collect()
        parts.append(columns.with_columns(ids(column, form) for column in columns.get_columns()))
    return pl.concat(parts)


def exclusions(tables: Sequence[pl.DataFrame], bundle: Bundle, histories: Histories) -> Exclusions:
    """Return what tables of users and items, of `read_item_lists`, exclude.

    Raises:
        UserError: a table has no user that has events, or no item of the bundle.
    """
    key, omitted = histories.id_name, 0
    owners, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in tables:
        owner = _places(table[key], histories.ids, histories.whose)
        row = _places(table[ITEM_ID], bundle.item_ids, "items")
        both = (owner >= 0) & (row >= 0)
        owners.append(owner[both])
        rows.append(row[both])
        omitted += int((~both).sum())
    owner = np.concatenate(owners)
    counts = np.bincount(owner, minlength=len(histories.ids))
    ordered = np.concatenate(rows)[np.argsort(owner, kind="stable")]
    return Exclusions(ordered, np.concatenate([[0], np.cumsum(counts)]), omitted)


def _places(column: pl.Series, known: pa.Array, what: str) -> Ints:
    """[n] where each id is among the known ones, -1 where it is not."""
    places = rows_of(column.to_arrow().cast(TEXT), known.cast(TEXT))
    samples = column[:SAMPLE].to_list(), known[:SAMPLE].to_pylist()
    Match("--exclude", f"rows' {what}", int((places >= 0).sum()), len(places), *samples).require()
    return places
