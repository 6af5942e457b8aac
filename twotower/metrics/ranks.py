"""Rank of the target among the whole catalogue. Shapes: Q queries, V items, D embedding dim."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.schema import PAD

SCORES_AT_ONCE = 1 << 22  # elements of a score matrix held at one time: 16 MiB of float32
COMPARED_AT_ONCE = 1 << 18  # elements of it compared at one time: 1 MiB, so that both comparisons find them in a cache
ROUNDING = 4 * torch.finfo(torch.float32).eps  # error of a dot product, relative to the product of the two lengths
Adjust = Callable[[Tensor, slice], None]  # changes scores [n, V] of the queries in a slice, in place; -inf: not ranked
IMPOSSIBLE = 2**30  # items before a target that is not ranked: more than any catalogue has
FEWEST_QUERIES = 16  # multiplied at one time, however many items there are: each product reads all of them


class Ranks(NamedTuple):
    """Rank of each target: behind `better` items, at the same score as `tied` items, itself included.

    >>> rank(scores=torch.tensor([[0.5, 0.9, 0.5]]), target=torch.tensor([1]))
    Ranks(better=tensor([1]), tied=tensor([2]))
    """

    better: Tensor  # [Q] int64
    tied: Tensor  # [Q] int64, at least 1


def chunks(total: int, num_items: int) -> Iterator[slice]:
    """Slices of `total` queries, small enough that [chunk, V] scores stay within SCORES_AT_ONCE."""
    return _slices(total, queries_at_once(num_items))


def queries_at_once(num_items: int) -> int:
    """Number of queries whose scores are held at one time."""
    return max(FEWEST_QUERIES, SCORES_AT_ONCE // num_items)


def rank(scores: Tensor, target: Tensor, tolerance: Tensor | float = 0.0) -> Ranks:
    """Rank targets among scores of the whole catalogue.

    Args:
        scores: [Q, V]; column c belongs to item_index c + 1.
        target: [Q] item_index; where its score is -inf it is not ranked, and IMPOSSIBLE items are before it.
        tolerance: [Q, 1] a score that differs from the target's by no more is tied with it.
    """
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    target_score = scores.gather(1, target[:, None] - 1)
    least, most = target_score - tolerance, target_score + tolerance
    rows = max(1, COMPARED_AT_ONCE // scores.shape[1])
    memory = scores.new_empty(min(rows, len(scores)), scores.shape[1])
    for part in _slices(len(scores), rows):
        flags = memory[: part.stop - part.start]
        below = _count(torch.lt(scores[part], least[part], out=flags))
        not_better = _count(torch.le(scores[part], most[part], out=flags))
        ranks.better[part] = scores.shape[1] - not_better  # so a NaN counts as better, and never improves a rank
        ranks.tied[part] = not_better - below
    is_impossible = torch.isneginf(target_score[:, 0])
    return Ranks(ranks.better.masked_fill_(is_impossible, IMPOSSIBLE), ranks.tied.masked_fill_(is_impossible, 1))


def rank_and_list(
    user: Tensor, items: Tensor, target: Tensor, list_length: int, adjust: Sequence[Adjust] = ()
) -> tuple[Ranks, Tensor]:
    """Rank targets [Q] by the dot product of users [Q, D] and items [V, D], a chunk of queries at a time.

    Scores are float32 even if training is not: coarser ones would tie. Equal vectors tie at any position, although
    some processors round their products differently. Items in `column_major` layout are multiplied a quarter faster.

    Returns:
        The targets' ranks, and [Q, list_length] item_index of the best items; all V where there are fewer, and PAD at
        the end where fewer are ranked.
    """
    user, items = user.float(), items.float()
    ranks = Ranks(torch.empty_like(target), torch.empty_like(target))
    top = target.new_empty(len(target), min(list_length, len(items)))
    # All chunks use the same memory: fresh memory for each would cost page faults, and leave holes that grow the heap.
    memory = user.new_empty(min(queries_at_once(len(items)), len(user)), len(items))
    for chunk in chunks(len(user), len(items)):
        scores = torch.mm(user[chunk], items.T, out=memory[: chunk.stop - chunk.start])
        for change in adjust:
            change(scores, chunk)
        lengths = user[chunk].norm(dim=1) * items[target[chunk] - 1].norm(dim=1)
        ranks.better[chunk], ranks.tied[chunk] = rank(scores, target[chunk], ROUNDING * lengths[:, None])
        if list_length:
            best = scores.topk(top.shape[1])
            top[chunk] = torch.where(torch.isneginf(best.values), PAD, best.indices + 1)
    return ranks, top


def column_major(items: Tensor) -> Tensor:
    """Copy vectors [V, D] into column-major layout, one dimension after the other; takes 4 * V * D bytes."""
    return items.T.contiguous().T


def _count(flags: Tensor) -> Tensor:
    """[Q, V] zeros and ones -> [Q] int64. Comparing and adding floats is several times faster than booleans."""
    exact = torch.float32 if flags.shape[1] <= 1 << 24 else torch.float64
    return flags.sum(1, dtype=exact).long()


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
