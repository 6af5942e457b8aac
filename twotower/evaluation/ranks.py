"""Where the target stands in a ranking of the whole catalogue. Shapes: Q queries, V items, D embedding dim."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.batch import SessionBatch
from twotower.schema import PAD

SCORES_AT_ONCE = 1 << 21  # elements of a score matrix held at one time: 8 MiB of float32, near the caches


class Ranks(NamedTuple):
    """A target stands behind `better` items and shares its place with `tied` items, itself included."""

    better: Tensor  # [Q] int64
    tied: Tensor  # [Q] int64, at least 1


class Queries(NamedTuple):
    """The queries of a batch, one a row."""

    row: Tensor  # [Q] row of the batch
    position: Tensor  # [Q] position of the newest event of the history
    target: Tensor  # [Q] item_index
    target_type: Tensor  # [Q]


def queries_of(batch: SessionBatch) -> Queries:
    """Every position of a batch whose target is to be found."""
    row, position = (batch.target_weight > 0).nonzero(as_tuple=True)
    return Queries(row, position, batch.target[row, position], batch.target_type[row, position])


def histories_of(batch: SessionBatch, queries: Queries) -> Tensor:
    """[Q, L] each query's own history: the row's events up to its position, then PAD."""
    column = torch.arange(batch.item_index.shape[1], device=queries.row.device)
    seen = column <= queries.position[:, None]
    return torch.where(seen, batch.item_index[queries.row], PAD)


def chunks(total: int, num_items: int) -> Iterator[slice]:
    """Slices of the queries, small enough that [chunk, V] scores stay within SCORES_AT_ONCE."""
    size = max(1, SCORES_AT_ONCE // num_items)
    return (slice(begin, min(begin + size, total)) for begin in range(0, max(total, 1), size))


def rank(scores: Tensor, target: Tensor) -> Ranks:
    """Rank targets among scores of the whole catalogue.

    Args:
        scores: [Q, V]; column c belongs to item_index c + 1.
        target: [Q] item_index.
    """
    own = scores.gather(1, target[:, None] - 1)
    below = _count(scores < own)
    tied = _count(scores <= own) - below
    return Ranks(scores.shape[1] - below - tied, tied)  # so a score that is no number never makes a rank better


def rank_by_dot_product(user: Tensor, items: Tensor, target: Tensor) -> Ranks:
    """Rank by the dot product of users [Q, D] and items [V, D], a chunk of queries at a time."""
    parts = [rank(user[chunk] @ items.T, target[chunk]) for chunk in chunks(len(user), len(items))]
    return Ranks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _count(flags: Tensor) -> Tensor:
    """[Q, V] bool -> [Q] int64; bytes add up several times faster than booleans."""
    return flags.view(torch.int8).sum(1, dtype=torch.int32).long()
