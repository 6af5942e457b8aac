"""What is ranked for a query, as serving asks it (`exclude_seen`, `filters`), and whether its target is a repeat.

A query is known by its target's position among the events; its history is all of the session before that, however long
ago. Shapes: Q queries, E events, S sessions, V items.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twotower.core.ragged import ranges
from twotower.metrics.score_changes import ScoreChanges

Array = npt.NDArray[Any]


class Candidates(NamedTuple):
    """The items that may be ranked for each query.

    >>> candidates = Candidates(item_index=np.array([3, 1, 3, 2]), offsets=np.array([0, 4]), exclude_seen=True)
    >>> candidates.is_repeat(np.array([1, 2]))
    array([False,  True])
    >>> candidates.restriction(torch.tensor([2]))[0].column
    tensor([2, 0])
    """

    item_index: Array  # [E]
    offsets: Array  # [S + 1]
    exclude_seen: bool = False  # whether items of the history are left out
    allowed: Array | None = None  # [V] bool; None: all

    def is_repeat(self, event: Array) -> Array:
        """Return [Q] whether each query's target is in its history."""
        begin, session = np.unique(self._start(event), return_inverse=True)
        end = np.zeros_like(begin)
        np.maximum.at(end, session, event + 1)
        length = end - begin
        position = ranges(begin, length)
        item = self.item_index[position].astype(np.int64)
        key = np.repeat(np.arange(len(begin)), length) * (item.max(initial=0) + 1) + item
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        place = (np.cumsum(length) - length)[session] + event - begin[session]
        repeat: Array = position[first][same][place] < event
        return repeat

    def restriction(self, event: Tensor) -> list[ScoreChanges]:
        """Return what sets to -inf the scores of items that are not ranked for queries [Q]; nothing where all are."""
        if self.allowed is None and not self.exclude_seen:
            return []
        end = event.cpu().numpy()
        start = self._start(end) if self.exclude_seen else end
        row = torch.from_numpy(np.repeat(np.arange(len(end)), end - start)).to(event.device)
        column = torch.from_numpy(self.item_index[ranges(start, end - start)].astype(np.int64) - 1).to(event.device)
        excluded = None if self.allowed is None else torch.from_numpy(~self.allowed).to(event.device)
        return [ScoreChanges(row, column, torch.full_like(row, -torch.inf, dtype=torch.float), excluded)]

    def of(self, event: Tensor) -> tuple[Tensor, list[ScoreChanges]]:
        """Return `is_repeat` as a tensor [Q], and the `restriction`."""
        return torch.from_numpy(self.is_repeat(event.cpu().numpy())).to(event.device), self.restriction(event)

    def _start(self, event: Array) -> Array:
        start: Array = np.asarray(self.offsets)[np.searchsorted(self.offsets, event, side="right") - 1]
        return start
