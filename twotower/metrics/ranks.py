"""Where the target stands in a ranking of the whole catalogue. Shapes: Q queries, V items, D embedding dim."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.batch import SessionBatch
from twotower.core.schema import PAD

SCORES_AT_ONCE = 1 << 22  # elements of a score matrix held at one time: 16 MiB of float32
COMPARED_AT_ONCE = 1 << 18  # elements of it compared at one time: 1 MiB, so that both comparisons find them in a cache
ROUNDING = 4 * torch.finfo(torch.float32).eps  # of a dot product, as a share of the lengths' product
FEWEST_QUERIES = 16  # multiplied at one time, however many items there are: each product reads all of them


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
    event: Tensor  # [Q] the target's position among all events


def queries_of(batch: SessionBatch) -> Queries:
    """Every position of a batch whose target is to be found."""
    row, position = (batch.target_weight > 0).nonzero(as_tuple=True)
    return Queries(row, position, *(x[row, position] for x in (batch.target, batch.target_type, batch.event)))


def histories_of(batch: SessionBatch, queries: Queries) -> Tensor:
    """[Q, L] each query's own history: the row's events up to its position, then PAD."""
    column = torch.arange(batch.item_index.shape[1], device=queries.row.device)
    seen = column <= queries.position[:, None]
    return torch.where(seen, batch.item_index[queries.row], PAD)


def chunks(total: int, num_items: int) -> Iterator[slice]:
    """Slices of the queries, small enough that [chunk, V] scores stay within SCORES_AT_ONCE."""
    return _slices(total, queries_at_once(num_items))


def queries_at_once(num_items: int) -> int:
    """How many queries' scores are held at one time."""
    return max(FEWEST_QUERIES, SCORES_AT_ONCE // num_items)


def rank(scores: Tensor, target: Tensor, tolerance: Tensor | float = 0.0) -> Ranks:
    """Rank targets among scores of the whole catalogue.

    Args:
        scores: [Q, V]; column c belongs to item_index c + 1.
        target: [Q] item_index.
        tolerance: [Q, 1] scores that differ from the target's by no more are level with it.
    """
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    own = scores.gather(1, target[:, None] - 1)
    least, most = own - tolerance, own + tolerance
    rows = max(1, COMPARED_AT_ONCE // scores.shape[1])
    memory = scores.new_empty(min(rows, len(scores)), scores.shape[1])
    for part in _slices(len(scores), rows):
        flags = memory[: part.stop - part.start]
        below = _count(torch.lt(scores[part], least[part], out=flags))
        no_better = _count(torch.le(scores[part], most[part], out=flags))
        ranks.better[part] = scores.shape[1] - no_better  # so a score that is no number never makes a rank better
        ranks.tied[part] = no_better - below
    return ranks


def rank_by_dot_product(user: Tensor, items: Tensor, target: Tensor) -> Ranks:
    """Rank targets [Q] by the dot product of users [Q, D] and items [V, D]: see rank_and_list."""
    return rank_and_list(user, items, target, 0)[0]


def rank_and_list(user: Tensor, items: Tensor, target: Tensor, listed: int) -> tuple[Ranks, Tensor]:
    """Rank by the dot product of users [Q, D] and items [V, D], a chunk of queries at a time.

    In single precision, whatever that of training: coarser scores would tie. Equal vectors tie wherever they stand,
    though some processors round their products otherwise. Items that lie as `by_column` puts them are multiplied a
    quarter faster.

    Returns:
        The targets' ranks, and [Q, listed] item_index of the best items, or all V where there are fewer.
    """
    user, items = user.float(), items.float()
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    top = target.new_empty(len(target), min(listed, len(items)))
    # All chunks use the same memory: fresh memory for each would cost page faults, and leave holes that grow the heap.
    scores = user.new_empty(min(queries_at_once(len(items)), len(user)), len(items))
    for chunk in chunks(len(user), len(items)):
        held = torch.mm(user[chunk], items.T, out=scores[: chunk.stop - chunk.start])
        lengths = user[chunk].norm(dim=1) * items[target[chunk] - 1].norm(dim=1)
        ranks.better[chunk], ranks.tied[chunk] = rank(held, target[chunk], ROUNDING * lengths[:, None])
        if listed:
            top[chunk] = held.topk(top.shape[1]).indices + 1
    return ranks, top


def by_column(items: Tensor) -> Tensor:
    """The same vectors [V, D], laid out in memory dimension after dimension: a copy of 4 * V * D bytes."""
    return items.T.contiguous().T


def _count(flags: Tensor) -> Tensor:
    """[Q, V] zeros and ones -> [Q] int64. Comparing and adding floats is several times faster than booleans."""
    exact = torch.float32 if flags.shape[1] <= 1 << 24 else torch.float64
    return flags.sum(1, dtype=exact).long()


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
