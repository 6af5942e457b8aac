"""Batches of sessions, gathered from the flat arrays without a Python loop over sessions.

Shapes: W windows, B rows of a batch, L the widest row's length. A window is one row of a batch: the input events
[start, start + length), the targets one event further; columns before `first_query` are context only.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from twotower.batch import SessionBatch, build_history
from twotower.errors import UserError
from twotower.schema import PAD, Prepared

Array = npt.NDArray[Any]


class Windows(NamedTuple):
    """Rows to gather: positions in the flat arrays."""

    start: Array  # [W]
    length: Array  # [W]
    first_query: Array  # [W]


def training_windows(start: Array, end: Array, max_length: int) -> Windows:
    """Cut each session [start, end) into rows so that every event but its first is a target exactly once."""
    inputs = np.maximum(end - start - 1, 0)
    pieces = -(-inputs // max_length)
    session = np.repeat(np.arange(len(start)), pieces)
    piece = np.arange(len(session)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = start[session] + piece * max_length
    length = np.minimum(max_length, start[session] + inputs[session] - begin)
    return Windows(begin, length, np.zeros_like(begin))


def query_windows(start: Array, first: Array, end: Array, max_length: int, min_history: int) -> Windows:
    """Rows in which each event of [first, end) is a target once, seen with its last `max_length` events.

    One row holds all queries with a history of up to `max_length`; each later query has a row of its own,
    so that the model sees exactly what it would see in serving.
    """
    if min_history < 1:
        raise UserError(f"evaluation.min_history={min_history}; a query needs a history of at least one event")
    first = np.maximum(first, start + min_history)
    together = np.minimum(end - 1, start + max_length)
    some = np.flatnonzero(first <= together)
    row = Windows(start[some], together[some] - start[some], first[some] - start[some] - 1)
    later = np.maximum(first, start + max_length + 1)
    count = np.maximum(end - later, 0)
    session = np.repeat(np.arange(len(start)), count)
    target = later[session] + np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
    full = np.full(len(target), max_length)
    return Windows(*map(np.concatenate, zip(row, (target - max_length, full, full - 1), strict=True)))


def training_loader(
    prepared: Prepared, max_length: int, positions_per_batch: int, seed: int, validation_too: bool = False
) -> "SessionLoader":
    """The events that a model may learn from, shuffled; with `validation_too` up to the test."""
    windows = training_windows(prepared.offsets[:-1], prepared.fit_end(validation_too), max_length)
    return SessionLoader(prepared, windows, max_length, positions_per_batch, seed)


def query_loader(
    prepared: Prepared, part: str, max_length: int, positions_per_batch: int, min_history: int = 1
) -> "SessionLoader":
    """Every query of `part`, "validation" or "test", in one fixed order."""
    bounds = {
        "validation": (prepared.train_end, prepared.validation_end),
        "test": (prepared.validation_end, prepared.offsets[1:]),
    }
    windows = query_windows(prepared.offsets[:-1], *bounds[part], max_length, min_history)
    return SessionLoader(prepared, windows, max_length, positions_per_batch, seed=None)


class SessionLoader:
    """Iterates over SessionBatch; rows of a batch have about one length, so little of it is padding.

    Each batch holds about `positions_per_batch` events and is the same for every number of ranks: a rank takes
    every world-size-th row of it. `state_dict` gives the position in the epoch, so that a resumed run goes on
    with the next batch and replays none.

    Args:
        seed: shuffles rows and batches, anew each epoch; None keeps one order.
    """

    def __init__(
        self, prepared: Prepared, windows: Windows, max_length: int, positions_per_batch: int, seed: int | None
    ) -> None:
        self.prepared = prepared
        self.windows = windows
        self.max_length = max_length
        self.seed = seed
        self.epoch = 0
        self.next_batch = 0
        order = np.argsort(windows.length, kind="stable")
        total = np.cumsum(windows.length[order])
        count = max(1, round(total[-1] / positions_per_batch)) if len(total) else 0
        self._sorted = order
        marks = np.arange(1, count) * (total[-1] / max(count, 1)) if count else np.empty(0)
        cuts = np.searchsorted(total, marks)
        self._bounds = np.unique(np.concatenate([[0], cuts, [len(order)]])).astype(np.int64)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._bounds) - 1

    @property
    def num_queries(self) -> int:
        """Targets in an epoch, over all ranks."""
        return int((self.windows.length - self.windows.first_query).sum())

    def target_counts(self) -> Array:
        """[V + 1] how often each item_index is a target in an epoch."""
        marks = np.zeros(len(self.prepared.item_index) + 2, dtype=np.int64)
        np.add.at(marks, self.windows.start + self.windows.first_query + 1, 1)
        np.add.at(marks, self.windows.start + self.windows.length + 1, -1)
        times = np.cumsum(marks)[: len(self.prepared.item_index)]
        return np.bincount(self.prepared.item_index, weights=times, minlength=self.prepared.num_items + 1).astype(
            np.int64
        )

    def __iter__(self) -> Iterator[SessionBatch]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        order, batches = self._sorted, np.arange(len(self))
        if self.next_batch >= len(batches):  # the last iteration ran to the end of its epoch
            self.epoch, self.next_batch = self.epoch + 1, 0
        if self.seed is None:
            self.next_batch = 0  # queries are never resumed half-way
        else:
            random = np.random.default_rng([self.seed, self.epoch])
            shuffled = random.permutation(len(order))
            order = shuffled[np.argsort(self.windows.length[shuffled], kind="stable")]
            random.shuffle(batches)
        while self.next_batch < len(batches):
            batch = batches[self.next_batch]
            rows = order[self._bounds[batch] : self._bounds[batch + 1]]
            self.next_batch += 1
            share = rows[rank::world]
            yield self._gather(share) if len(share) else self._without_targets(rows[:1])

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, unless it is the one under way."""
        if epoch != self.epoch:
            self.epoch, self.next_batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch and next batch: all that is needed to go on."""
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]

    def _without_targets(self, rows: Array) -> SessionBatch:
        """What a rank gets that no row of a batch is left for: something to compute on, and nothing that counts."""
        batch = self._gather(rows)
        return batch._replace(target=torch.full_like(batch.target, PAD))

    def _gather(self, rows: Array) -> SessionBatch:
        start, length, first_query = (column[rows] for column in self.windows)
        end = start + length
        item_index = build_history(self.prepared.item_index, end, length, self.max_length)
        target = build_history(self.prepared.item_index, end + 1, length, self.max_length)
        target_type = build_history(self.prepared.event_type, end + 1, length, self.max_length)
        target[np.arange(target.shape[1]) < first_query[:, None]] = PAD
        return SessionBatch(*map(torch.from_numpy, (item_index, target, target_type)))
