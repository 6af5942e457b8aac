"""New rows onto a store: which are read, and how they are sorted into its segments."""

from collections.abc import Collection, Mapping

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID
from twotower.data.preparation.clean import ERASED
from twotower.data.preparation.event_features import FEATURE, EventFeatures
from twotower.data.preparation.first_pass import PartitionedEvents
from twotower.data.preparation.sessionize import SessionRule
from twotower.data.preparation.sort import sort_partitions
from twotower.data.preparation.store import Store
from twotower.data.readers.source import Source


def rows_of(source: Source, only: Collection[int] | None) -> int:
    """Return about how many rows some of the event files have, by their sizes; None: all of them."""
    if only is None:
        return source.rows
    sizes = [file.stat().st_size for file in source.files[: source.event_files]]
    return source.rows * sum(sizes[number] for number in only) // max(1, sum(sizes))


def partitions_of(rows: int, rows_at_once: int) -> int:
    """Return how many partitions, a power of two, have about `rows_at_once` rows each."""
    return 1 << max(0, -(-rows // rows_at_once) - 1).bit_length()


def sort_into(
    store: Store,
    events: PartitionedEvents,
    features: EventFeatures,
    kind_of_ids: str,
    rank_of_code: Mapping[str, Array],
    rule: SessionRule,
    rows_at_once: int,
) -> None:
    """Sort the new rows, with those of the store that they change, into a segment; then the store holds them."""
    # Ids that are no longer all numbers have another order, which decides on equal times.
    rows = store.choose_folded(store.state is not None and store.state["kind_of_ids"] != kind_of_ids)
    new = events.rows - events.rows_before
    if new or rows or not store.segments:
        if store.segments:  # with each new row come older ones of its key
            events.partitions = events.partitions.refined(partitions_of(rows + 8 * new, rows_at_once))
        older = store.older if store.kept else None
        store.add(*sort_partitions(events.partitions, rows + new, store.new_segment(), rank_of_code, rule, older))
        events.dropped[ERASED] += store.forgotten_rows
    if not store.segments:
        raise UserError("none of the rows is left: all are of users whom preparation.erase lists")
    if store.kept:
        values = {ITEM_ID: events.items.values, EVENT_TYPE: events.types.values}
        values |= {FEATURE + name: dictionary.values for name, dictionary in features.dictionaries.items()}
        store.commit({**events.state, "kind_of_ids": kind_of_ids}, values)
