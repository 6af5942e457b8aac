"""Features of events: device, country, age band of the user, price of the item at that time.

A feature is a column of the events, of the users' table or of the items' table; of a table with timestamps an event
gets the value of its own time. Each distinct value is kept once, so memory grows with those. Shapes: E events.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from twotower import features
from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest
from twotower.core.event_codes import EVENT_TYPE, SIZES, TIME
from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID
from twotower.data.preparation.identifiers import Dictionary, ranks
from twotower.data.preparation.sort import Block
from twotower.data.preparation.splits import TEST
from twotower.data.readers.source import Source

FEATURE = "feature_"  # prefix of a feature's name, where it is among columns of other kinds
Specs = Mapping[str, Mapping[str, Any]]


class EventFeatures:
    """The declared features of events: first they collect values, then they are fitted, then they give codes.

    Args:
        specs: name -> declaration (see features.spec); `column` names the column if it has another name.
        source: the events and their tables.

    Raises:
        UserError: a declaration is wrong, or its column does not exist.

    >>> source = Source("shop", [], {}, ["device"], 3, "s", chunks=lambda names: iter([]))
    >>> features = EventFeatures({"device": {"kind": "categorical"}}, source)
    >>> features.encode(pl.DataFrame({"device": ["phone", None, "phone"]}))["feature_device"].to_list()
    [1, 0, 1]
    """

    def __init__(self, specs: Specs, source: Source) -> None:
        self._specs = specs
        self._columns = {name: str(spec.get("column") or name) for name, spec in specs.items()}
        for name, spec in specs.items():
            if name in (EVENT_TYPE, TIME, *SIZES):
                raise UserError(
                    f"preparation.features.events.{name}: the name is taken; call it otherwise, with column:"
                )
            features.check_spec(name, spec, single=True)
        missing = set(self._columns.values())
        self.event_columns = sorted(missing & set(source.columns))
        missing -= set(self.event_columns)
        self._tables: list[tuple[str, pl.DataFrame]] = []
        for key, table in ((USER_ID, source.users), (ITEM_ID, source.items)):
            if missing and table is not None:
                lazy = table()
                present = sorted(missing & set(lazy.collect_schema().names()))
                missing -= set(present)
                if present:
                    self._tables.append((key, _look_up_table(lazy, key, present)))
        if missing:
            name = sorted(missing)[0]
            raise UserError(
                f"preparation.features.events: there is no column '{name}' in the events or in their tables"
                f"{nearest(name, source.columns)} The events have: {', '.join(source.columns)}"
            )
        self.table_keys = [key for key, _ in self._tables]  # columns of the events by which rows of tables are found
        if USER_ID in self.table_keys and USER_ID not in source.columns:
            raise UserError("preparation.features.events: a users' table needs a user column in the events")
        self._dictionaries = {name: Dictionary() for name in specs}
        self._values: dict[str, list[Any]] = {}  # by rank
        self._codes: dict[str, Array] = {}  # by rank

    def encode(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the dictionary codes [E] of each feature, as UInt32 columns; timestamps are in microseconds."""
        frames = [events.select(self.event_columns), *(_look_up(events, key, table) for key, table in self._tables)]
        values = pl.concat(frames, how="horizontal")
        return pl.DataFrame(
            [d.encode(values[self._columns[n]]).alias(FEATURE + n) for n, d in self._dictionaries.items()]
        )

    def rank_values(self) -> dict[str, Array]:
        """Return for each column [codes + 1] the ranks of the values, which do not depend on the order of rows."""
        ranked = {name: ranks(dictionary.values) for name, dictionary in self._dictionaries.items()}
        self._values = {name: [None, *values.to_list()] for name, (values, _) in ranked.items()}
        return {FEATURE + name: rank_of_code for name, (_, rank_of_code) in ranked.items()}

    def count_values(self, blocks: Iterable[Block], item_index: Array) -> dict[str, Array]:
        """Count the events before the test, of items in the catalogue, by the ranks of each feature's values.

        Args:
            blocks: all events; not read if there are no features.
            item_index: see catalogue.Catalogue.
        """
        counts = {name: np.zeros(len(values), dtype=np.int64) for name, values in self._values.items()}
        for block in blocks if counts else ():
            counted = (block.part != TEST) & (item_index[block.columns[ITEM_ID]] > 0)
            for name, count in counts.items():
                count += np.bincount(block.columns[FEATURE + name][counted], minlength=len(count))
        return counts

    def fit(self, counts: Mapping[str, Array]) -> dict[str, features.Encoder]:
        """Fit the encoders on values that occur `counts` times, by rank; afterwards `codes` can be called."""
        encoders = {}
        for name, values in self._values.items():
            seen = np.flatnonzero(counts[name])
            encoder = features.fit(name, self._specs[name], [values[i] for i in seen], counts[name][seen].tolist())
            encoders[name] = {**encoder, "column": self._columns[name]}  # by which serving finds the value
            self._codes[name] = features.encode_single(encoders[name], values)
        return encoders

    def codes(self, name: str, rank: Array) -> Array:
        """Return the encoder's codes [E] of ranks [E]."""
        return self._codes[name][rank]


def _look_up_table(table: pl.LazyFrame, key: str, columns: list[str]) -> pl.DataFrame:
    """Return one row for each id [and time], ids as text; of contradictory rows the smallest."""
    names = table.collect_schema().names()
    if key not in names:
        raise UserError(f"the table of features has no column {key}; it has: {', '.join(names)}")
    keys = [key, TIMESTAMP] if TIMESTAMP in names else [key]
    frame = table.select(*keys, *columns).drop_nulls(keys).collect().with_columns(pl.col(key).cast(pl.String))
    return frame.sort(*keys, *columns).unique(keys, keep="first", maintain_order=True).sort(keys[::-1])


def _look_up(events: pl.DataFrame, key: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the table's columns for each event, in the order of the events."""
    asked = events.select(pl.col(key).cast(pl.String), pl.col(TIMESTAMP) // 1000)
    if TIMESTAMP not in table.columns:
        return asked.join(table, on=key, how="left", maintain_order="left").drop(key, TIMESTAMP)
    asked = asked.with_row_index("row").sort(TIMESTAMP)
    joined = asked.join_asof(table, on=TIMESTAMP, by=key, strategy="backward", check_sortedness=False)
    return joined.sort("row").drop("row", key, TIMESTAMP)
