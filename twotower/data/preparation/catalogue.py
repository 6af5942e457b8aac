"""The catalogue: which items exist for the model, and their rows. Shapes: K different items, V of the catalogue."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError
from twotower.core.inputs import MS_PER_DAY
from twotower.core.schema import AGE_DAYS, ITEM_ID, TIMESTAMP, TRAIN_COUNT, USER_ID
from twotower.data.preparation.sort import Block
from twotower.data.preparation.splits import PARTS, TEST, TRAIN, VALIDATION

Ints = npt.NDArray[Any]


def identifiers(values: pl.Series) -> pl.Series:
    """Item ids as Int64 where every one is a whole number, else as String.

    Numbers that went through a floating-point column on their way are whole ("12.0"); numbers with leading zeros
    are strings.
    """
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    digits = values.str.strip_suffix(".0")
    whole = digits.cast(pl.Int64, strict=False)
    same = whole.null_count() == values.null_count() and (whole.cast(pl.String) == digits).all()
    return whole if same else values


def count_items(found: Iterable[Block], items: int) -> tuple[Ints, Ints]:
    """[3, K + 1] events by part and item, and [K + 1] days from an item's first event to the last of all.

    Days are whole, and of events before the test; an item without any has a negative number.
    """
    counts = np.zeros((len(PARTS), items + 1), dtype=np.int64)
    first, last = np.full(items + 1, np.iinfo(np.int64).max), 0
    for block in found:
        item, before = block.columns[ITEM_ID], block.part != TEST
        keys = block.part * np.int64(items + 1) + item
        counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
        time = block.columns[TIMESTAMP][before]
        np.minimum.at(first, item[before], time)
        last = max(last, int(time.max(initial=0)))
    return counts, (last - first) // MS_PER_DAY


def count_values(found: Iterable[Block], index: Ints, sizes: Mapping[str, int]) -> dict[str, Ints]:
    """How many events before the test, of items of the catalogue, have each value of some columns.

    Args:
        index: [K + 1] item_index of each item, 0 where it is not in the catalogue.
        sizes: column -> how many values it has.
    """
    counts = {name: np.zeros(size, dtype=np.int64) for name, size in sizes.items()}
    for block in found if sizes else ():
        learnt = (block.part != TEST) & (index[block.columns[ITEM_ID]] > 0)
        for name, count in counts.items():
            count += np.bincount(block.columns[name][learnt], minlength=len(count))
    return counts


def users_of_items(found: Iterable[Block]) -> Iterator[pl.DataFrame]:
    """Items and users of the events before the test; where no user is known, a session stands for one."""
    sessions = 0
    for block in found:
        session = np.cumsum(block.first, dtype=np.uint64) + np.uint64(sessions)
        user = block.columns.get(USER_ID, session)
        before = block.part != TEST
        yield pl.DataFrame({"item": block.columns[ITEM_ID][before], "user": np.where(user == 0, session, user)[before]})
        sessions += int(block.first.sum())


def count_users(pairs: Iterable[pl.DataFrame], enough: int, items: int) -> Ints:
    """[K + 1] how many different users touched each item, counted up to `enough`.

    Args:
        pairs: frames of the columns item and user, any number of rows; at most K * `enough` of them are kept.
    """
    seen: pl.DataFrame | None = None
    for frame in pairs:
        seen = (frame if seen is None else seen.vstack(frame)).unique()
        seen = seen.filter(pl.int_range(pl.len()).over("item") < enough)
    counts = np.zeros(items + 1, dtype=np.int64)
    if seen is not None:
        found = seen.group_by("item").len()
        counts[found["item"].to_numpy()] = found["len"].to_numpy()
    return counts


def build_catalogue(
    ids: pl.Series, counts: Ints, age_days: Ints | None, few_users: npt.NDArray[np.bool_]
) -> tuple[pl.DataFrame, Ints]:
    """The items of the events before the test, but those that few users touched, by id: row r is item_index r + 1.

    Validation is cut from the training data, so its items are known; an item that only the test has seen is not.
    `train_count` counts training events alone.

    Args:
        ids: [K] in their order.
        counts: [3, K + 1] events by part and item, from 1.
        age_days: [K + 1]; None where the timestamps have no unit.
        few_users: [K + 1].

    Returns:
        A frame [V] of ITEM_ID, train_count and age_days, and [K + 1] the item_index of each item, 0 where it has none.

    Raises:
        UserError: fewer than two items.
    """
    known = counts[TRAIN] + counts[VALIDATION] > 0
    chosen = np.flatnonzero(known & ~few_users)
    if len(chosen) < 2:
        few = f", {known.sum() - len(chosen):,} of too few users" if known.sum() > len(chosen) else ""
        raise UserError(
            f"before the test there are {len(chosen)} different items{few}; ranking needs at least 2. "
            "Is data.columns.item_id right? (The test part alone has "
            f"{(counts[TEST] > 0).sum():,} items.)"
        )
    index = np.zeros(counts.shape[1], dtype=np.int32)
    index[chosen] = np.arange(1, len(chosen) + 1)
    age = pl.Series([None] * len(chosen) if age_days is None else age_days[chosen], dtype=pl.Int64)
    return pl.DataFrame({ITEM_ID: ids.gather(chosen - 1), TRAIN_COUNT: counts[TRAIN][chosen], AGE_DAYS: age}), index
