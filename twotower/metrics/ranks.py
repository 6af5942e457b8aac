"""Rank of the target among the whole catalogue. Shapes: Q queries, V items, D embedding dim."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.metrics.running_top import RunningTop
from twotower.metrics.score_changes import ScoreChanges, columns_between

ROUNDING = 4 * torch.finfo(torch.float32).eps  # error of a dot product, relative to the product of the two lengths
IMPOSSIBLE = 2**30  # items before a target that is not ranked: more than any catalogue has
QUERIES = 1024  # multiplied at one time
TILE, TILE_OF_GPU = 1 << 19, 1 << 24  # elements of a tile of scores; 2 MiB, and 64 MiB where a cache is not the limit


class Ranks(NamedTuple):
    """Rank of each target: behind `better` items, at the same score as `tied` items, itself included.

    >>> one, items = torch.ones(1, 1), torch.tensor([[0.5], [0.9], [0.5]])
    >>> rank_and_list(one, items, target=torch.tensor([1]), list_length=0)[0]
    Ranks(better=tensor([1]), tied=tensor([2]))
    """

    better: Tensor  # [Q] int64
    tied: Tensor  # [Q] int64, at least 1


def rank_and_list(
    user: Tensor, items: Tensor, target: Tensor, list_length: int, changes: Sequence[ScoreChanges] = ()
) -> tuple[Ranks, Tensor]:
    """Rank targets [Q] by the dot product of users [Q, D] and items [V, D]; list_length 0: no lists.

    Scores are computed in tiles that stay in the processor's cache, changed and counted there. They are float32 even
    if training is not: coarser ones would tie. Equal vectors tie wherever they stand, however products are rounded.

    Also returns [Q, list_length] item_index of the best items; all V where there are fewer, PAD at the end where fewer
    are ranked.
    """
    user, items = user.float(), items.float()
    better, tied, top = torch.empty_like(target), torch.empty_like(target), []
    own = items[target - 1]
    target_score = (user * own).sum(1)
    for change in changes:
        change.apply_to_targets(target_score, target)
    tolerance = ROUNDING * torch.maximum(user.norm(dim=1) * own.norm(dim=1), target_score.abs().nan_to_num(posinf=0))
    least, most = (target_score - tolerance)[:, None], (target_score + tolerance)[:, None]
    at_once = max(QUERIES, TILE if user.device.type == "cpu" else TILE_OF_GPU)
    memory = user.new_empty(2, at_once)
    for queries in slices(len(user), QUERIES):
        rows = queries.stop - queries.start
        own_changes, (own_column, own_row) = [change.of(queries) for change in changes], (target[queries] - 1).sort()
        counts = torch.zeros(2, rows, dtype=torch.double, device=user.device)  # below the target, and not better
        running = RunningTop(user[queries, 0], min(list_length, len(items)))
        for columns in slices(len(items), max(1, at_once // rows)):
            scores, flags = memory[:, : rows * (columns.stop - columns.start)].view(2, rows, -1)
            torch.mm(user[queries], items[columns].T, out=scores)
            for change in own_changes:
                change.apply(scores, columns.start)
            mine = columns_between(own_column, columns.start, columns.stop)  # tied with itself, however it was rounded
            scores[own_row[mine], own_column[mine] - columns.start] = target_score[queries][own_row[mine]]
            counts[0] += torch.lt(scores, least[queries], out=flags).sum(1)
            counts[1] += torch.le(scores, most[queries], out=flags).sum(1)
            if list_length:
                running.update(scores, columns.start)
        below, not_better = counts.long()
        better[queries], tied[queries] = len(items) - not_better, (not_better - below).clamp(min=1)
        top.append(running.items())
    lists = torch.cat(top) if top else target.new_empty(0, min(list_length, len(items)))
    return without_impossible(better, tied, target_score), lists


def without_impossible(better: Tensor, tied: Tensor, target_score: Tensor) -> Ranks:
    """Ranks in which targets of the score -inf are not ranked."""
    is_impossible = target_score.isneginf()
    return Ranks(better.masked_fill_(is_impossible, IMPOSSIBLE), tied.masked_fill_(is_impossible, 1))


def slices(total: int, size: int) -> Iterator[slice]:
    """Cut `total` rows into slices of at most `size`."""
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))
