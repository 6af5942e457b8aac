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
from twotower.core.matches import SAMPLE, Match
from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID
from twotower.core.values import TextForm
from twotower.data.preparation.blocks import Block
from twotower.data.preparation.identifiers import Dictionary, ranks
from twotower.data.preparation.item_features import smallest_first
from twotower.data.preparation.splits import TEST
from twotower.data.readers.source import Source
from twotower.data.text_form import ids, in_text_form, shortest

FEATURE = "feature_"  # prefix of a feature's name, where it is among columns of other kinds
Specs = Mapping[str, Mapping[str, Any]]
TEXT_FORM = TextForm()
MATCHED = "__matched"  # a name that no table has


class EventFeatures:
    """The declared features of events: first they collect values, then they are fitted, then they give codes.

    Args:
        specs: name -> declaration (see features.spec); `column` names the column if it has another name.
        source: the events and their tables.
        form: how texts are read.

    Raises:
        UserError: a declaration is wrong, or its column does not exist.

    >>> source = Source("shop", [], {}, ["device"], 3, "s", chunks=lambda names: iter([]))
    >>> features = EventFeatures({"device": {"kind": "categorical"}}, source)
    >>> features.encode(pl.DataFrame({"device": ["phone", None, "phone"]}))["feature_device"].to_list()
    [1, 0, 1]
    """

    def __init__(self, specs: Specs, source: Source, form: TextForm = TEXT_FORM) -> None:
        self._specs, self._form = specs, form
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
        self._tables: list[_Table] = []
        for key, table in ((USER_ID, source.users), (ITEM_ID, source.items)):
            if missing and table is not None:
                lazy = table()
                present = sorted(missing & set(lazy.collect_schema().names()))
                missing -= set(present)
                if present:
                    self._tables.append(_Table(lazy, key, present, form))
        if missing:
            name = sorted(missing)[0]
            raise UserError(
                f"preparation.features.events: there is no column '{name}' in the events or in their tables"
                f"{nearest(name, source.columns)} The events have: {', '.join(source.columns)}"
            )
        # Columns of the events by which rows of tables are found.
        self.table_keys = [table.key for table in self._tables]
        if USER_ID in self.table_keys and USER_ID not in source.columns:
            raise UserError("preparation.features.events: a users' table needs a user column in the events")
        self.dictionaries = {name: Dictionary() for name in specs}
        self.unreadable: dict[str, dict[str, Any]] = {}  # by name: how many events, of how many, and the first value
        self._values: dict[str, list[Any]] = {}  # by rank
        self._codes: dict[str, Array] = {}  # by rank

    def encode(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the dictionary codes [E] of each feature, as UInt32 columns; timestamps are in microseconds."""
        frames = [events.select(self.event_columns), *(table.look_up(events) for table in self._tables)]
        values = pl.concat(frames, how="horizontal")
        return pl.DataFrame(
            [d.encode(values[self._columns[n]]).alias(FEATURE + n) for n, d in self.dictionaries.items()]
        )

    def rank_values(self) -> dict[str, Array]:
        """Return for each column [codes + 1] the ranks of the values, which do not depend on the order of rows."""
        ranked = {name: ranks(dictionary.values) for name, dictionary in self.dictionaries.items()}
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
            given, count = [values[i] for i in seen], counts[name][seen]
            encoder = features.fit(name, self._specs[name], given, count.tolist(), self._form.nulls or ())
            if (bad := features.unreadable(encoder, given)).any():
                first = given[int(np.argmax(bad))]
                self.unreadable[name] = {"values": int(count[bad].sum()), "of": int(count.sum()), "first": first}
            encoders[name] = {**encoder, "column": self._columns[name]}  # by which serving finds the value
            self._codes[name] = features.encode_single(encoders[name], values)
        return encoders

    def codes(self, name: str, rank: Array) -> Array:
        """Return the encoder's codes [E] of ranks [E]."""
        return self._codes[name][rank]

    @property
    def matches(self) -> list[Match]:
        """How many events found their user or item in a table; raises UserError for a table that none did."""
        return [table.match.require() for table in self._tables]

    @property
    def contradictory(self) -> dict[str, int]:
        """Users by column with several values at the same time, of which the smallest was taken."""
        return {name: n for table in self._tables if table.key == USER_ID for name, n in table.contradictory.items()}


class _Table:
    """A table of users or items, which counts how many events it is asked for, and how many it knows.

    It has one row for each id [and time]: of contradictory values the smallest, and for each column the newest that is
    not null.
    """

    def __init__(self, table: pl.LazyFrame, key: str, columns: list[str], form: TextForm) -> None:
        names = table.collect_schema().names()
        if key not in names:
            raise UserError(f"the table of features has no column {key}; it has: {', '.join(names)}")
        self.key, self._form, self._columns = key, form, columns
        self._keys = [key, TIMESTAMP] if TIMESTAMP in names else [key]
        frame = table.select(*self._keys, *columns).collect()
        frame = in_text_form(frame, form).with_columns(ids(frame[key], form), *(shortest(frame[c]) for c in columns))
        frame = frame.drop_nulls(self._keys)
        self.contradictory = {}
        parts = [frame.select(self._keys).unique()]
        for column in columns:
            order = smallest_first(column, frame.schema[column])
            rows = frame.select(*self._keys, column).drop_nulls().sort(*order, nulls_last=True)
            groups = rows.group_by(self._keys, maintain_order=True)
            chosen = groups.agg(pl.col(column).first(), several=pl.col(column).n_unique() > 1)
            self.contradictory[column] = chosen.filter("several")[key].n_unique()
            parts.append(chosen.drop("several"))
        self._table = parts[0]
        for part in parts[1:]:
            self._table = self._table.join(part, on=self._keys, how="left")
        self._table = self._table.sort(self._keys[::-1])
        if TIMESTAMP in self._keys:
            self._table = self._table.with_columns(pl.col(columns).forward_fill().over(key))
        self._table = self._table.with_columns(pl.lit(True).alias(MATCHED))
        self._asked = self._found = 0
        self._unmatched: list[str] = []

    def look_up(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the table's columns for each event, in the order of the events."""
        asked = events.select(ids(events[self.key], self._form), pl.col(TIMESTAMP) // 1000)
        if TIMESTAMP in self._keys:
            asked = asked.with_row_index("row").sort(TIMESTAMP)
            joined = asked.join_asof(
                self._table, on=TIMESTAMP, by=self.key, strategy="backward", check_sortedness=False
            ).sort("row")
        else:
            joined = asked.join(self._table, on=self.key, how="left", maintain_order="left")
        has_key, found = joined[self.key].is_not_null(), joined[MATCHED].is_not_null()
        self._asked += int(has_key.sum())
        self._found += int(found.sum())
        if len(self._unmatched) < SAMPLE:
            self._unmatched += joined.filter(has_key & ~found)[self.key].unique().head(SAMPLE).to_list()
        return joined.select(self._columns)

    @property
    def match(self) -> Match:
        """How many of the events had a row."""
        place, whose = ("data.users", "users") if self.key == USER_ID else ("data.items", "items")
        others = self._table[self.key].unique().head(SAMPLE).to_list()
        remedy = "The table's rows hold only from their timestamp on" if TIMESTAMP in self._keys else ""
        what = f"events' {whose}"
        sides = sorted(set(self._unmatched)), sorted(others)
        return Match(place, what, self._found, self._asked, *sides, remedy, of_people=self.key == USER_ID)
