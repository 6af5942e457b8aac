"""The catalogue: which items a model knows, and their rows. Shapes: K distinct items, V items of the catalogue."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY
from twotower.core.schema import AGE_DAYS, ITEM_ID, TIMESTAMP, TRAIN_COUNT, USER_ID
from twotower.data.preparation.blocks import Block
from twotower.data.preparation.splits import PARTS, TEST, TRAIN, VALIDATION

UNLISTED = "item that data.items does not have"


class Catalogue(NamedTuple):
    """The items that a model knows; row r of the table is item_index r + 1.

    >>> table = pl.DataFrame({"item_id": ["fig", "pear"], "train_count": [4, 2], "age_days": [30, 7]})
    >>> catalogue = Catalogue(table, np.array([0, 1, 0, 2]), excluded={}, events=np.array([0, 5, 1, 3]), test_events=3)
    >>> catalogue.table["item_id"][int(catalogue.item_index[3]) - 1]
    'pear'
    """

    table: pl.DataFrame  # [V] ITEM_ID, TRAIN_COUNT and AGE_DAYS
    item_index: Array  # [K + 1] item_index by rank of the item's id, 0 where the item is not in the catalogue
    excluded: dict[str, Array]  # reason -> [K + 1] True where that is for this reason, and not as the test alone has it
    events: Array  # [K + 1] number of events of each item
    test_events: int  # number of test events of all items


def build_catalogue(
    read_blocks: Callable[[], Iterator[Block]], ids: pl.Series, timed: bool, min_users: int, listed: Array | None = None
) -> Catalogue:
    """Return the items of the events before the test by id, without unlisted ones and those of too few users.

    Validation is cut from the training data, so its items are known; an item that only the test has is not.

    Args:
        read_blocks: yields all events; called once or twice.
        ids: [K] in ascending order.
        timed: whether timestamps have a unit.
        min_users: items with events of fewer distinct users before the test are left out.
        listed: [K + 1] False for items that are left out; None: none are.

    Raises:
        UserError: fewer than two items.
    """
    counts, age_days = _count_items(read_blocks(), len(ids))
    known = counts[TRAIN] + counts[VALIDATION] > 0
    excluded = {}
    if listed is not None:
        excluded[UNLISTED] = known & ~listed
        known &= listed
    if min_users > 1:
        few = known & (_count_users(read_blocks(), min_users, len(ids)) < min_users)
        excluded[f"item of fewer than {min_users} users"] = few
        known &= ~few
    chosen = np.flatnonzero(known)
    if len(chosen) < 2:
        without = "".join(f", {mask.sum():,} were left out ({reason})" for reason, mask in excluded.items())
        raise UserError(
            f"before the test there are {len(chosen)} different items{without}; ranking needs at least 2. "
            f"Is data.columns.item_id right? (The test part alone has {(counts[TEST] > 0).sum():,} items.)"
        )
    index = np.zeros(len(ids) + 1, dtype=np.int32)
    index[chosen] = np.arange(1, len(chosen) + 1)
    age = pl.Series(age_days[chosen] if timed else [None] * len(chosen), dtype=pl.Int64)
    table = pl.DataFrame({ITEM_ID: ids.gather(chosen - 1), TRAIN_COUNT: counts[TRAIN][chosen], AGE_DAYS: age})
    return Catalogue(table, index, excluded, counts.sum(axis=0), int(counts[TEST].sum()))


def _count_items(blocks: Iterable[Block], items: int) -> tuple[Array, Array]:
    """Return [3, K + 1] events by part and item, and [K + 1] whole days from an item's first event to the last of all.

    Only events before the test have a time; an item without any has a negative number of days.
    """
    counts = np.zeros((len(PARTS), items + 1), dtype=np.int64)
    first, last = np.full(items + 1, np.iinfo(np.int64).max), 0
    for block in blocks:
        item, before = block.columns[ITEM_ID], block.part != TEST
        keys = block.part * np.int64(items + 1) + item
        counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
        time = block.columns[TIMESTAMP][before]
        np.minimum.at(first, item[before], time)
        last = max(last, int(time.max(initial=0)))
    return counts, (last - first) // MS_PER_DAY


def _count_users(blocks: Iterable[Block], enough: int, items: int) -> Array:
    """Return [K + 1] distinct users of each item before the test, counted up to `enough`; keeps K * `enough` pairs.

    Where the user of a session is unknown, the session counts as one.
    """
    sessions = 0
    seen: pl.DataFrame | None = None
    for block in blocks:
        session = np.cumsum(block.first, dtype=np.uint64) + np.uint64(sessions)
        user = block.columns.get(USER_ID, session)
        before = block.part != TEST
        pairs = pl.DataFrame(
            {"item": block.columns[ITEM_ID][before], "user": np.where(user == 0, session, user)[before]}
        )
        seen = (pairs if seen is None else seen.vstack(pairs)).unique()
        seen = seen.filter(pl.int_range(pl.len()).over("item") < enough)
        sessions += int(block.first.sum())
    counts = np.zeros(items + 1, dtype=np.int64)
    if seen is not None:
        by_item = seen.group_by("item").len()
        counts[by_item["item"].to_numpy()] = by_item["len"].to_numpy()
    return counts
