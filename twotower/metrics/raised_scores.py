"""Scores of each query's own items, raised by the pointer over its history. Shapes: Q queries, L history length."""

import torch
from torch import Tensor

from twotower.core.schema import PAD
from twotower.metrics.ranks import Adjust


def raised(history: Tensor, bonus: Tensor) -> Adjust:
    """Raise the scores of each query's own items: see model.pointer.

    Args:
        history: [Q, L] item_index, PAD where there is none; an item may be there several times, with one bonus.
        bonus: [Q, L] by how much.
    """
    is_item = history != PAD
    first = is_item.long().argmax(dim=1, keepdim=True)  # stands in for PAD
    column = torch.where(is_item, history, history.gather(1, first)).clamp(min=1) - 1
    value = torch.where(is_item, bonus, bonus.gather(1, first)) * is_item.any(dim=1, keepdim=True)

    def change(scores: Tensor, part: slice) -> None:
        scores.scatter_(1, column[part], scores.gather(1, column[part]) + value[part].to(scores.dtype))

    return change
