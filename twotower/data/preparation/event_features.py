"""Features of events (device, country, a user's age band, an item's price at that time): where their values come from.

A feature is a column of the events, of the users' table or of the items' table; of a table with a timestamp the event
gets the value of its own time. Each distinct value is kept once, so memory grows with those. Shapes: E events.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower import features
from twotower.core.errors import UserError, nearest
from twotower.core.inputs import EVENT_TYPE, SIZES, TIME
from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID
from twotower.data.preparation.spill import Dictionary, ranks
from twotower.data.readers.source import Source

Array = npt.NDArray[Any]
FEATURE = "feature_"  # before a feature's name, where it stands beside columns of other kinds
Specs = Mapping[str, Mapping[str, Any]]


class EventFeatures:
    """The declared features, and the distinct values that they have had so far.

    Args:
        specs: name -> what YAML says of it; `column` names its column where that is called otherwise.
        source: where the columns are.

    Raises:
        UserError: a specification is wrong, or a column is nowhere.
    """

    def __init__(self, specs: Specs, source: Source) -> None:
        self.names = list(specs)
        self._specs = specs
        self._columns = {name: str(spec.get("column") or name) for name, spec in specs.items()}
        for name, spec in specs.items():
            if name in (EVENT_TYPE, TIME, *SIZES):
                raise UserError(
                    f"preparation.features.events.{name}: the name is taken; call it otherwise, with column:"
                )
            features.check_spec(name, spec, single=True)
        wanted = set(self._columns.values())
        self.own = sorted(wanted & set(source.columns))
        self._tables: list[tuple[str, pl.DataFrame]] = []
        missing = wanted - set(self.own)
        for key, table in ((USER_ID, source.users), (ITEM_ID, source.items)):
            if missing and table is not None:
                lazy = table()
                found = sorted(missing & set(lazy.collect_schema().names()))
                missing -= set(found)
                if found:
                    self._tables.append((key, _ready(lazy, key, found)))
        if missing:
            name = sorted(missing)[0]
            raise UserError(
                f"preparation.features.events: there is no column '{name}' in the events or in their tables"
                f"{nearest(name, source.columns)} The events have: {', '.join(source.columns)}"
            )
        self.needs = [key for key, _ in self._tables]  # columns of the events that find the rows of the tables
        if USER_ID in self.needs and USER_ID not in source.columns:
            raise UserError("preparation.features.events: a users' table needs a user column in the events")
        self._dictionaries = {name: Dictionary() for name in self.names}
        self._values: dict[str, list[Any]] = {}  # by rank
        self._luts: dict[str, Array] = {}

    def encode(self, events: pl.DataFrame) -> pl.DataFrame:
        """The features' codes [E], UInt32 columns named FEATURE and the name; timestamps are in microseconds."""
        frames = [events.select(self.own)]
        frames += [_look_up(events, key, table) for key, table in self._tables]
        values = pl.concat(frames, how="horizontal")
        return pl.DataFrame(
            [d.encode(values[self._columns[n]]).alias(FEATURE + n) for n, d in self._dictionaries.items()]
        )

    def settle(self) -> dict[str, Array]:
        """[codes + 1] each column's codes as ranks of the sorted values, which do not depend on the order of rows."""
        settled = {name: ranks(dictionary.values) for name, dictionary in self._dictionaries.items()}
        self._values = {name: [None, *values.to_list()] for name, (values, _) in settled.items()}
        return {FEATURE + name: lut for name, (_, lut) in settled.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """How many ranks each feature has, that of null among them."""
        return {FEATURE + name: len(values) for name, values in self._values.items()}

    def fit(self, counts: Mapping[str, Array]) -> dict[str, features.Encoder]:
        """Encoders, from how many events before the test have each rank; then `final` gives codes for ranks."""
        encoders = {}
        for name in self.names:
            values, count = self._values[name], counts[FEATURE + name]
            seen = np.flatnonzero(count)
            encoder = features.fit(name, self._specs[name], [values[i] for i in seen], count[seen].tolist())
            encoders[name] = {**encoder, "column": self._columns[name]}  # serving finds the value by it
            self._luts[name] = features.encode_single(encoders[name], values)
        return encoders

    def final(self, name: str, rank: Array) -> Array:
        """[E] the encoder's codes for [E] ranks."""
        return self._luts[name][rank]


def _ready(table: pl.LazyFrame, key: str, columns: list[str]) -> pl.DataFrame:
    """One row for each id [and time], ids as text; of rows that contradict each other the smallest."""
    names = table.collect_schema().names()
    if key not in names:
        raise UserError(f"the table of features has no column {key}; it has: {', '.join(names)}")
    keys = [key, TIMESTAMP] if TIMESTAMP in names else [key]
    frame = table.select(*keys, *columns).drop_nulls(keys).collect().with_columns(pl.col(key).cast(pl.String))
    return frame.sort(*keys, *columns).unique(keys, keep="first", maintain_order=True).sort(keys[::-1])


def _look_up(events: pl.DataFrame, key: str, table: pl.DataFrame) -> pl.DataFrame:
    """The table's columns for each event, in the events' order."""
    asked = events.select(pl.col(key).cast(pl.String), pl.col(TIMESTAMP) // 1000)
    if TIMESTAMP not in table.columns:
        return asked.join(table, on=key, how="left", maintain_order="left").drop(key, TIMESTAMP)
    asked = asked.with_row_index("row").sort(TIMESTAMP)
    found = asked.join_asof(table, on=TIMESTAMP, by=key, strategy="backward", check_sortedness=False)
    return found.sort("row").drop("row", key, TIMESTAMP)
