"""Queries of an evaluation batch, and their histories. Shapes: Q queries, L history length."""

from typing import NamedTuple

import torch
from torch import Tensor

from twotower.core.batch import SessionBatch
from twotower.core.schema import PAD


class Queries(NamedTuple):
    """The queries of a batch, one a row."""

    row: Tensor  # [Q] row of the batch
    position: Tensor  # [Q] position of the history's newest event
    target: Tensor  # [Q] item_index
    target_type: Tensor  # [Q] event type
    event: Tensor  # [Q] the target's position among all events


def queries_of(batch: SessionBatch) -> Queries:
    """Return every position of a batch whose target is to be ranked high."""
    row, position = (batch.target_weight > 0).nonzero(as_tuple=True)
    return Queries(row, position, *(x[row, position] for x in (batch.target, batch.target_type, batch.event)))


def histories_of(batch: SessionBatch, queries: Queries) -> Tensor:
    """[Q, L] history of each query: the row's events up to its position, then PAD."""
    column = torch.arange(batch.item_index.shape[1], device=queries.row.device)
    return torch.where(column <= queries.position[:, None], batch.item_index[queries.row], PAD)
