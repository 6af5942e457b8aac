"""From ranked candidates to the list that is shown: caps for each group, and exploration.

Shapes: V items, m ranked candidates of one query (best first), k answers, Q queries, T group codes of all items.
"""

import math
import operator
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.core.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
POOL = 10  # explored are the candidates from the k-th to this many times k
SHARES = (0.0, 0.1, 0.2, 0.4)  # of exploration, whose effect is shown at export


class Groups(NamedTuple):
    """The groups of each item by a column: none where it has no value, several where it has several."""

    codes: npt.NDArray[np.int32]  # [T]
    offsets: Ints  # [V + 1] item row r has codes[offsets[r]:offsets[r + 1]]
    values: pa.Array  # the texts by code


class Cap(NamedTuple):
    """At most `limit` answers of each group."""

    groups: Groups
    limit: int


def groups_of(column: pa.ChunkedArray) -> Groups:
    """[V] texts or lists of texts as groups; what else there is is taken by its text."""
    text = pa.large_string()  # all texts together may have more than 2 GiB
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = column.cast(pa.large_list(text) if is_list else text).combine_chunks()
    if is_list:
        length = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        values = values.flatten()
        item = np.repeat(np.arange(len(length)), length)[pc.is_valid(values).to_numpy(zero_copy_only=False)]
        length = np.bincount(item, minlength=len(length))
    else:
        length = pc.is_valid(values).to_numpy(zero_copy_only=False).astype(np.int64)
    encoded = values.drop_null().dictionary_encode()
    offsets = np.concatenate([[0], np.cumsum(length, dtype=np.int64)])
    return Groups(encoded.indices.to_numpy(zero_copy_only=False), offsets, encoded.dictionary)


def at_most(rows: Ints, caps: Sequence[Cap], enough: int) -> Ints:
    """Places in rows [m] of the candidates that all caps let through, the first `enough` of them.

    In order, a candidate is let through if none of its groups has as many as its cap allows; it then counts for each
    of its groups, under every cap. An item without a value of a column is not capped by it.
    """
    # A loop, as each candidate's fate hangs on those before it.
    spans = [(cap.groups.offsets[rows].tolist(), cap.groups.offsets[rows + 1].tolist()) for cap in caps]
    counts: list[dict[int, int]] = [{} for _ in caps]
    places: list[int] = []
    for place in range(len(rows)):
        mine = [cap.groups.codes[i[place] : j[place]].tolist() for cap, (i, j) in zip(caps, spans, strict=True)]
        if any(
            count.get(code, 0) >= cap.limit
            for cap, count, codes in zip(caps, counts, mine, strict=True)
            for code in codes
        ):
            continue
        for count, codes in zip(counts, mine, strict=True):
            for code in set(codes):
                count[code] = count.get(code, 0) + 1
        places.append(place)
        if len(places) == enough:
            break
    return np.array(places, dtype=np.int64)


def explore(candidates: int, k: int, exploration: float, random: np.random.Generator, weight: Floats) -> Ints:
    """Places in m ranked candidates that make a list of k, some of them picked by chance from beyond the best k.

    Each place of the list is explored with probability `exploration`, so that exploration * k answers are expected
    that the plain list does not have. The others go to the best candidates in order, the explored ones to draws without
    replacement from the candidates that rank from k on, up to POOL * k: one with twice the weight is twice as likely
    to be drawn next. Where chance wants more than there are, the best candidates fill the rest.

    Args:
        candidates: m.
        k: answers.
        exploration: from 0, the plain list, to 1, none of it.
        random: the same generator gives the same list.
        weight: [m] above 0: see `novelty`.

    Returns:
        [min(k, m)] all different.
    """
    k = min(k, candidates)
    pool = np.arange(k, min(candidates, POOL * k))
    explored = np.flatnonzero(random.random(k) < exploration)[: len(pool)]
    # The smallest of exponential times with these rates come first as draws without replacement do.
    drawn = pool[np.argsort(random.exponential(size=len(pool)) / weight[pool], kind="stable")]
    places = np.empty(k, dtype=np.int64)
    is_plain = np.ones(k, dtype=bool)
    is_plain[explored] = False
    places[explored] = drawn[: len(explored)]
    places[is_plain] = np.arange(k - len(explored))
    return places


def novelty(train_count: npt.NDArray[Any], age_days: npt.NDArray[Any]) -> Floats:
    """[V] weights for exploration: 1 / sqrt((1 + n) * (1 + a)) for an item with n training events in a days.

    What is learnt from n events is uncertain in proportion to 1 / sqrt(n), so items are tried as much as there is to
    find out; and of two with as few events, the old one has had its chance. An item with about four times the events,
    or the age, is half as likely. Where the age is not known (NaN), it does not count.
    """
    weights: Floats = 1 / np.sqrt((1.0 + train_count) * (1.0 + np.nan_to_num(age_days)))
    return weights


def exploration_effect(
    ranked: Ints, target: Ints, k: int, weight: Floats, seed: int, shares: Sequence[float] = SHARES
) -> list[dict[str, float]]:
    """What exploration costs and brings: for each share recall@k of the targets, and how many items lists show.

    Args:
        ranked: [Q, m] rows of the best items, POOL * k of them or all; for a measurement as serving would answer.
        target: [Q] the row of what came next; another number where the catalogue does not have it.
        k: answers.
        weight: [V].
        seed: of query 0, and so forth.

    Returns:
        For each share `exploration`, `recall`, `coverage` (share of the V items that are in a list) and `explored`
        (answers a query that the plain list does not have).
    """
    effects = []
    for share in shares:
        lists = np.stack(
            [
                rows[explore(len(rows), k, share, np.random.default_rng(seed + query), weight[rows])]
                for query, rows in enumerate(ranked)
            ]
        )
        is_other = ~(lists[:, :, None] == ranked[:, None, :k]).any(axis=2)
        effects.append(
            {
                "exploration": float(share),
                "recall": float((lists == target[:, None]).any(axis=1).mean()),
                "coverage": len(np.unique(lists)) / len(weight),
                "explored": float(is_other.sum(axis=1).mean()),
            }
        )
    return effects


def check_limit(name: str, limit: Any) -> int:
    """A positive integer; raises UserError for anything else."""
    try:
        number = 0 if isinstance(limit, bool) else operator.index(limit)
    except TypeError:
        number = 0
    if number < 1:
        raise UserError(f"max_per of '{name}' is {reprlib.repr(limit)}; expected a positive integer of answers")
    return number


def check_exploration(exploration: Any, seed: Any) -> tuple[float, int | None]:
    """A share from 0 to 1, and a seed or None; raises UserError for anything else."""
    share = float(exploration) if isinstance(exploration, Real) and not isinstance(exploration, bool) else math.nan
    if not 0 <= share <= 1:
        raise UserError(
            f"exploration is {reprlib.repr(exploration)}; expected a number from 0, the plain list, to 1, none of it"
        )
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or (number is not None and not 0 <= number < 2**64):
        raise UserError(f"seed is {reprlib.repr(seed)}; expected an integer from 0 to less than 2**64, or null")
    return share, number
