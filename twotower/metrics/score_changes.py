"""Changes of single scores before a ranking: what the pointer adds, and items that are not ranked.

Shapes: Q queries, V items, L history length, E entries.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.schema import PAD


class ScoreChanges(NamedTuple):
    """Values added to scores [Q, V]; -inf: the item is not ranked. An entry that is there twice is added once.

    >>> changes = ScoreChanges(row=torch.tensor([0]), column=torch.tensor([2]), value=torch.tensor([0.5]))
    >>> scores = torch.zeros(1, 2)
    >>> changes.apply(scores, first=1)
    >>> scores
    tensor([[0.0000, 0.5000]])
    """

    row: Tensor  # [E] query, ascending
    column: Tensor  # [E] item_index - 1
    value: Tensor  # [E]
    excluded: Tensor | None = None  # [V] bool, items that are ranked for no query

    def of(self, queries: slice) -> "ScoreChanges":
        """Return those of some queries, sorted by column, as `apply` needs them."""
        begin, end = torch.searchsorted(self.row, self.row.new_tensor([queries.start, queries.stop])).tolist()
        column, order = self.column[begin:end].sort()
        row, value = self.row[begin:end][order] - queries.start, self.value[begin:end][order]
        return ScoreChanges(row, column, value, self.excluded)

    def apply(self, scores: Tensor, first: int) -> None:
        """Change scores [Q, columns] of the columns from `first` on, in place."""
        end = first + scores.shape[1]
        if self.excluded is not None:
            scores.masked_fill_(self.excluded[first:end], -torch.inf)
        inside = columns_between(self.column, first, end)
        place = self.row[inside], self.column[inside] - first
        scores[place] = scores[place] + self.value[inside].to(scores.dtype)

    def apply_to_targets(self, scores: Tensor, target: Tensor) -> None:
        """Change the scores [Q] of each query's target [Q], an item_index, in place."""
        if self.excluded is not None:
            scores.masked_fill_(self.excluded[target - 1], -torch.inf)
        is_target = self.column == target[self.row] - 1
        row = self.row[is_target]
        scores[row] = scores[row] + self.value[is_target].to(scores.dtype)


def columns_between(column: Tensor, first: int, end: int) -> slice:
    """Where the columns from `first` to before `end` lie among sorted ones [E]."""
    return slice(*torch.searchsorted(column, column.new_tensor([first, end])).tolist())


def history_changes(history: Tensor, bonus: Tensor) -> ScoreChanges:
    """Change the scores of the items in each query's own history: see model.pointer.

    Args:
        history: [Q, L] item_index, PAD where there is none; an item may be there several times, with one bonus.
        bonus: [Q, L] by how much.
    """
    row, place = (history != PAD).nonzero(as_tuple=True)
    return ScoreChanges(row, history[row, place].long() - 1, bonus[row, place])
