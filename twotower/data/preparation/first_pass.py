"""What the first pass has counted and encoded, and how a later one goes on from it. Shapes: E rows."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from twotower.core.errors import UserError
from twotower.core.matches import SAMPLE, Match
from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, TIMESTAMP, USER_ID
from twotower.core.values import TextForm
from twotower.data.preparation.identifiers import Dictionary
from twotower.data.preparation.losses import Losses
from twotower.data.preparation.spill import Partitions

GONE = "If their events were deleted already, leave these users out of the list"


@dataclass
class PartitionedEvents:
    """The usable rows on disk, as integers, and the counts of the first pass."""

    partitions: Partitions
    unit: str  # what the timestamps count
    by_user: bool  # whether partitions go by users, as there is no session column
    keep_users: bool  # whether rows have a column of hashed users
    rows: int = 0  # read
    units: Counter[str] = field(default_factory=Counter)  # what the timestamps look like
    dropped: Counter[str] = field(default_factory=Counter)
    items: Dictionary = field(default_factory=Dictionary)
    types: Dictionary = field(default_factory=Dictionary)
    losses: Losses = field(default_factory=Losses)
    similar_ids: dict[str, dict[str, tuple[int, str, str]]] = field(default_factory=dict)  # of items and of users
    some_users: list[str] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)  # users of the erase list that were read now
    matched: set[int] = field(default_factory=set)  # hashes of users of the erase list who have or had rows
    types_of_columns: dict[str, str] = field(default_factory=dict)  # as they were first read
    newest: int = -1  # time of a usable row, in microseconds or an ordinal
    late: int = 0  # usable rows that are older than `newest` was at first
    rows_before: int = 0  # of these, read by earlier preparations

    @property
    def state(self) -> dict[str, Any]:
        """What a later preparation goes on from, beside the dictionaries, as JSON."""
        kept = ("unit", "rows", "units", "dropped", "types_of_columns", "newest")
        others = {"losses": self.losses.state, "similar_users": self.similar_ids.get(USER_ID)}
        return {name: getattr(self, name) for name in kept} | {"matched": sorted(self.matched)} | others

    def restore(self, state: Mapping[str, Any], dictionaries: Mapping[str, pl.Series]) -> None:
        """Go on from a state, and the values of items and event types by code."""
        self.rows = self.rows_before = state["rows"]
        self.newest, self.types_of_columns = state["newest"], state["types_of_columns"]
        self.units, self.dropped = Counter(state["units"]), Counter(state["dropped"])
        self.losses, self.matched = Losses.restored(state["losses"]), set(state["matched"])
        if state["similar_users"] is not None:
            self.similar_ids = {USER_ID: {step: tuple(found) for step, found in state["similar_users"].items()}}
        self.items, self.types = Dictionary(dictionaries[ITEM_ID]), Dictionary(dictionaries[EVENT_TYPE])

    def hashed(self, column: pl.Series, name: str) -> pl.Series:
        """Return the hashes [E] of ids [E] in the column `name`, whatever type they have in which file."""
        first = pl.String() if self.types_of_columns.get(name) == "String" else pl.Int64()
        return self.partitions.hashed(column, first if column.dtype != first else None)


def match_erased(
    events: PartitionedEvents, erase: AbstractSet[str], with_rows: Callable[[Sequence[int]], set[int]]
) -> Match | None:
    """Return how many of the listed users were found, now or before; None without a list.

    Args:
        erase: ids of the list.
        with_rows: from hashes to those of users that earlier preparations left rows of.

    Raises:
        UserError: none was found, or the rows of a user who is no longer listed are gone for good.
    """
    listed = sorted(erase)
    by_hash = dict(zip(events.hashed(pl.Series(listed, dtype=pl.String), USER_ID).to_list(), listed, strict=True))
    if back := len(events.matched - by_hash.keys()):
        raise UserError(
            f"preparation.erase no longer lists {back:,} of the users whose events have left preparation.store; "
            "list them again, or name another folder as preparation.store, for which all files are read"
        )
    if not erase:
        return None
    events.matched |= {key for key, user in by_hash.items() if user in events.erased} | with_rows(list(by_hash))
    unmatched = [user for key, user in by_hash.items() if key not in events.matched][:SAMPLE]
    counts, sides = (len(events.matched), len(erase)), (unmatched, events.some_users)
    return Match("preparation.erase", "listed users", *counts, *sides, GONE, of_people=True).require()


def check_types(chunk: pl.DataFrame, events: PartitionedEvents, form: TextForm) -> None:
    """Raise UserError where a column has another type than earlier files and their rows would now be read otherwise.

    Ids that were numbers may become texts: what was kept of them is converted.
    """
    for name, dtype in chunk.schema.items():
        if chunk[name].null_count() == chunk.height:
            continue
        before = events.types_of_columns.setdefault(name, str(dtype))
        if str(dtype) == before:
            continue
        became_text = before == "Int64" and dtype == pl.String
        of_ids = name in (ITEM_ID, USER_ID, SESSION_ID)
        if not (became_text and (of_ids or name == TIMESTAMP)) or any(map(_is_number, form.nulls or ())):
            raise UserError(
                f"{name} was {before} in the files of preparation.store and is {dtype} with the new ones; "
                "name another folder as preparation.store, for which all files are read"
            )
        if name == ITEM_ID:
            events.items = Dictionary(events.items.values.cast(pl.String))
        if name in (ITEM_ID, TIMESTAMP):  # hashes stay those of numbers
            events.types_of_columns[name] = str(dtype)


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
