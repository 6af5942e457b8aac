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
    return _rank(scores, target, scores.new_empty(scores.shape))


def rank_by_dot_product(user: Tensor, items: Tensor, target: Tensor) -> Ranks:
    """Rank by the dot product of users [Q, D] and items [V, D], a chunk of queries at a time.

    In single precision, whatever that of training: coarser scores would tie. Items that lie as `by_column` puts them
    are multiplied a quarter faster.
    """
    user, items = user.float(), items.float()
    slices = list(chunks(len(user), len(items)))
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    # All chunks use the same memory: fresh memory for each would cost page faults, and leave holes that grow the heap.
    scores, flags = user.new_empty(2, slices[0].stop, len(items))
    for chunk in slices:
        part = slice(0, chunk.stop - chunk.start)
        torch.mm(user[chunk], items.T, out=scores[part])
        ranks.better[chunk], ranks.tied[chunk] = _rank(scores[part], target[chunk], flags[part])
    return ranks


def by_column(items: Tensor) -> Tensor:
    """The same vectors [V, D], laid out in memory dimension after dimension: a copy of 4 * V * D bytes."""
    return items.T.contiguous().T


def _rank(scores: Tensor, target: Tensor, flags: Tensor) -> Ranks:
    """As rank; `flags` [Q, V] is memory to work in."""
    own = scores.gather(1, target[:, None] - 1)
    below = _count(torch.lt(scores, own, out=flags))
    tied = _count(torch.le(scores, own, out=flags)) - below
    return Ranks(scores.shape[1] - below - tied, tied)  # so a score that is no number never makes a rank better


def _count(flags: Tensor) -> Tensor:
    """[Q, V] zeros and ones -> [Q] int64. Comparing and adding floats is several times faster than booleans."""
    exact = torch.float32 if flags.shape[1] <= 1 << 24 else torch.float64
    return flags.sum(1, dtype=exact).long()
