"""The answers for a part of all users, as a table: what Retriever.recommend answers for each of them.

Shapes: S users of a part, Q users of a batch, k results each, V items, L history length, D embedding dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.core.arrays import Floats, Ints, Mask
from twotower.core.ragged import ranges
from twotower.core.schema import ITEM_ID
from twotower.segments.item_tables import Exclusions
from twotower.segments.user_histories import Histories, known_events
from twotower.serving.batch_retriever import BatchRetriever
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import ItemId
from twotower.serving.histories import KnownEvents

NUMBERS = 2**22  # that the largest array of a batch has
RANK, SCORE = "rank", "score"


@dataclass(frozen=True)
class Scoring:
    """What a batch asks for; see Retriever.recommend for what is not explained here.

    >>> Scoring(k=10, objective="purchase", exclude_seen=True).k
    10
    """

    k: int = 20
    objective: str | Mapping[str, float] | None = None
    timestamp: Any = None  # one for all users
    exclude_seen: bool = False
    filters: Mapping[str, Any] | None = None
    max_per: Mapping[str, int] | None = None
    include: str | None = None  # a table of items
    exclude: Sequence[str] = ()  # tables of items, or of users and items: see segments.item_tables


def schema(histories: Histories, bundle: Bundle) -> pa.Schema:
    """Return the columns of the answers."""
    types = {histories.id_name: histories.ids.type, RANK: pa.int32(), ITEM_ID: bundle.item_ids.type}
    return pa.schema({**types, SCORE: pa.float32()})


def answers(
    retriever: BatchRetriever,
    histories: Histories,
    start: int,
    stop: int,
    scoring: Scoring,
    allowed: Mask | None,
    excluded: Exclusions | None,
) -> pa.Table:
    """Return the results of the histories start:stop, a row for each place.

    Args:
        retriever: of the bundle.
        histories: of all users.
        start, stop: the part.
        scoring: what is asked for.
        allowed: [V] items that any user may get; None: all.
        excluded: what each user may not get, beside `scoring.exclude_seen`.
    """
    events, _ = known_events(histories, start, stop, coded=True)
    left_out = _left_out(events, start, stop, scoring, excluded)
    counts = np.array([*map(len, left_out)] if left_out else [0] * (stop - start))
    facts = retriever.bundle.manifest
    ids: list[list[ItemId]] = [[]] * (stop - start)
    scores: list[Floats] = [np.empty(0, np.float32)] * (stop - start)
    for users in _batches(counts, scoring.k, int(facts["max_length"]), int(facts["dim"])):
        found = retriever.recommend_known(
            _of_users(events, users),
            scoring.k,
            objective=scoring.objective,
            timestamp=scoring.timestamp,
            allowed=allowed,
            excluded=[left_out[user] for user in users] if left_out else None,
            max_per=scoring.max_per,
        )
        for user, items, values in zip(users.tolist(), found.ids, found.scores, strict=True):
            ids[user], scores[user] = items, values[: len(items)]
    number = np.array([*map(len, ids)])
    rank = ranges(np.ones_like(number), number)
    columns = [
        histories.ids.take(pa.array(np.repeat(np.arange(start, stop), number))),
        pa.array(rank, pa.int32()),
        pa.array([item for items in ids for item in items], retriever.bundle.item_ids.type),
        pa.array(np.concatenate(scores), from_pandas=True),  # NaN is null
    ]
    return pa.table(columns, schema=schema(histories, retriever.bundle))


def _left_out(
    events: KnownEvents, start: int, stop: int, scoring: Scoring, excluded: Exclusions | None
) -> list[Ints] | None:
    """[S] catalogue rows that each user may not get; None where nothing is left out."""
    seen = [np.unique(rows) for rows in events.rows] if scoring.exclude_seen else None
    listed = excluded.of(start, stop) if excluded else None
    if seen is None or listed is None:
        return seen or listed
    return [np.union1d(*pair) for pair in zip(seen, listed, strict=True)]


def _batches(counts: Ints, k: int, length: int, dim: int) -> Iterator[Ints]:
    """Yield the numbers of the users of one batch after the other, those with few items to leave out first.

    A search fetches k items and as many as the user of its batch with the most to leave out, so one such user would
    cost all others of the part their memory.

    Args:
        counts: [S] items to leave out.
        k, length, dim: k, L and D.
    """
    order = np.argsort(counts, kind="stable")
    width = np.maximum(length * dim, (k + counts[order] + length) * length)  # a pointer's items against candidates
    start = 0
    while start < len(order):
        fitting = np.arange(1, len(order) - start + 1) * width[start:] <= NUMBERS
        stop = start + max(1, int(np.count_nonzero(fitting)))
        yield order[start:stop]
        start = stop


def _of_users(events: KnownEvents, users: Ints) -> KnownEvents:
    """The events of some of the histories, in the order of `users`."""
    length = events.length[users]
    place = ranges((events.end - events.length)[users], length)
    return KnownEvents(events.item_index[place], events.codes[place], length)
