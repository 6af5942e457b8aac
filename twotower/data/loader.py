"""Batches of sessions, gathered from the flat arrays without a Python loop over sessions.

Shapes: W windows, B rows of a batch, L length of the longest row, K event inputs, E events, T event types, V items.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from twotower.core.arrays import Array
from twotower.core.batch import SessionBatch, gather, history_positions
from twotower.core.errors import UserError, nearest
from twotower.core.event_codes import TIME, time_codes
from twotower.core.ragged import ranges
from twotower.core.schema import PAD, Prepared
from twotower.data.horizon import NEXT, Horizon, events_ahead
from twotower.data.target_weights import type_weights
from twotower.data.windows import Newest, Windows, newest_windows, query_windows, training_windows

WINDOWS_AT_ONCE = 1 << 16  # of which targets are counted together; bounds the memory that counting takes


def training_loader(
    prepared: Prepared,
    max_length: int,
    positions_per_batch: int,
    seed: int,
    include_validation: bool = False,
    inputs: Sequence[str] = (),
    target_weights: Mapping[str, float] | None = None,
    horizon: str | float = NEXT,
    newest: Newest | None = None,
) -> "SessionLoader":
    """Return a loader of the training events, shuffled; see SessionLoader.

    Args:
        include_validation: train on the validation events, too.
        target_weights: see type_weights; targets of a negative weight are explicit negatives.
        horizon: how far ahead targets are drawn; see events_ahead.
        newest: the rows that an epoch has, with a sample of the others; None: all.
    """
    end = prepared.fit_end(include_validation)
    windows = newest_windows(training_windows(prepared.offsets[:-1], end, max_length), prepared.timestamp, newest, seed)
    weights = type_weights(prepared.event_types, target_weights)
    ahead = events_ahead(horizon, prepared, end)
    return SessionLoader(prepared, windows, max_length, positions_per_batch, seed, inputs, weights, ahead)


def query_loader(
    prepared: Prepared,
    part: str,
    max_length: int,
    positions_per_batch: int,
    min_history: int = 1,
    inputs: Sequence[str] = (),
    target_weights: Mapping[str, float] | None = None,
) -> "SessionLoader":
    """Return a loader of every query of `part`, "validation" or "test", in a fixed order; see SessionLoader.

    Args:
        min_history: events that a query needs before its target.
        target_weights: see type_weights; only events whose type has a positive weight are targets.
    """
    bounds = {
        "validation": (prepared.train_end, prepared.validation_end),
        "test": (prepared.validation_end, prepared.offsets[1:]),
    }
    windows = query_windows(prepared.offsets[:-1], *bounds[part], max_length, min_history)
    weights = type_weights(prepared.event_types, target_weights).clip(min=0)
    return SessionLoader(prepared, windows, max_length, positions_per_batch, None, inputs, weights)


class SessionLoader:
    """Iterates over SessionBatch; the rows of a batch have about the same length, so little of it is padding.

    Each batch holds about `positions_per_batch` events and is the same for every number of ranks: a rank takes
    every world-size-th row of it. `state_dict` gives the position in the epoch, from which a resumed run continues.
    Tensors are in pinned memory where there is a GPU.

    Args:
        prepared: the data.
        windows: rows to deliver; an event is the next one of a query in at most one of them.
        max_length: longest row.
        positions_per_batch: positions of a batch, about.
        seed: shuffles rows and batches, in another way each epoch; None keeps one order.
        inputs: names of the event inputs to deliver, in this order.
        weights: [T] of targets by event type; 0 makes no target, and a row without any target is left out.
        ahead: a position's target is drawn from these in each epoch, and is none where its weight is 0; None: the next.

    >>> column, ends = np.array([1, 2, 3, 1]), (np.array([0, 4]), np.array([4]), np.array([4]), np.array([1]))
    >>> prepared = Prepared(None, {"event_types": ["view"]}, column, column * 0, column, *ends, inputs={})
    >>> [batch.target.tolist() for batch in training_loader(prepared, 8, positions_per_batch=100, seed=0)]
    [[[2, 3, 1]]]
    """

    def __init__(
        self,
        prepared: Prepared,
        windows: Windows,
        max_length: int,
        positions_per_batch: int,
        seed: int | None,
        inputs: Sequence[str],
        weights: Array,
        ahead: Horizon | None = None,
    ) -> None:
        for name in inputs:
            if name not in (*prepared.inputs, TIME):
                raise UserError(
                    f"model.inputs names '{name}', which the data does not have; it has "
                    f"{', '.join(prepared.inputs) or 'none'}{nearest(name, prepared.inputs)}"
                )
        self.prepared = prepared
        self.max_length = max_length
        self.seed = seed
        self.inputs = list(inputs)
        self.weights = weights
        self.ahead = ahead
        self.epoch, self.next_batch = 0, 0
        begin, stop = self._target_range(windows)
        targets = self._count_targets(begin, stop)
        some = np.flatnonzero(targets if ahead is None else self._count_targets(begin, ahead.stop(stop - 2)))
        self.windows = windows if len(some) == len(targets) else Windows(*(column[some] for column in windows))
        self._targets = int(targets.sum())
        # Few bytes a length: numpy then sorts them by counting.
        self._length = self.windows.length.astype(np.min_scalar_type(max_length))
        self._sorted = np.argsort(self._length, kind="stable")
        total = np.cumsum(self.windows.length[self._sorted])
        count = max(1, round(total[-1] / positions_per_batch)) if len(total) else 0
        marks = np.arange(1, count) * (total[-1] / max(count, 1)) if count else np.empty(0)
        cuts = np.searchsorted(total, marks)
        self._bounds = np.unique(np.concatenate([[0], cuts, [len(total)]])).astype(np.int64)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self._bounds) - 1

    @property
    def num_queries(self) -> int:
        """Number of targets in an epoch, over all ranks; where they are drawn and a weight is 0, of next events."""
        return self._targets

    @property
    def largest_batch(self) -> int:
        """Number of positions of the largest batch, padding included, over all ranks."""
        rows, last = np.diff(self._bounds), self._bounds[1:] - 1
        return int((rows * self._length[self._sorted[last]].astype(np.int64)).max(initial=0))

    def target_events(self, part: slice = slice(None)) -> Array:
        """Return the positions of the targets of the rows in `part` among the events, whatever the sign of a weight."""
        begin, stop = (column[part] for column in self._target_range(self.windows))
        event = ranges(begin, stop - begin)
        return event if self.weights.all() else event[self.weights[self.prepared.event_type[event]] != 0]

    def target_counts(self) -> Array:
        """Return [V + 1] how often each item_index is a target in an epoch, on average, whatever its weight's sign."""
        counts = np.zeros(self.prepared.num_items + 1, dtype=np.int64)
        for first in range(0, len(self.windows.start), WINDOWS_AT_ONCE):
            part = slice(first, first + WINDOWS_AT_ONCE)
            if self.ahead is None:
                event, times = self.target_events(part), None
            else:
                begin, stop = (column[part] for column in self._target_range(self.windows))
                event, times = self.ahead.expected_draws(ranges(begin - 1, stop - begin))
                times = times * (self.weights[self.prepared.event_type[event]] != 0)
            counts = counts + np.bincount(self.prepared.item_index[event], times, minlength=len(counts))
        return counts

    def __iter__(self) -> Iterator[SessionBatch]:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        pinned = torch.cuda.is_available()
        order, batches = self._sorted, np.arange(len(self))
        if self.next_batch >= len(batches):  # the last iteration ran to the end of its epoch
            self.epoch, self.next_batch = self.epoch + 1, 0
        if self.seed is None:
            self.next_batch = 0  # queries are never resumed half-way
        else:
            random = np.random.default_rng([self.seed, self.epoch])
            shuffled = random.permutation(len(order))
            order = shuffled[np.argsort(self._length[shuffled], kind="stable")]
            random.shuffle(batches)
        while self.next_batch < len(batches):
            batch = batches[self.next_batch]
            rows = order[self._bounds[batch] : self._bounds[batch + 1]]
            self.next_batch += 1
            share, chance = rows[rank::world], None
            if self.ahead is not None and self.seed is not None:  # for all rows: targets do not depend on the ranks
                size = len(rows), int(self._length[rows].max())
                chance = np.random.default_rng([self.seed, self.epoch, batch]).random(size)[rank::world]
            arrays = self._gather(share, chance) if len(share) else self._without_targets(rows[:1])
            tensors = (torch.from_numpy(array) for array in arrays)
            yield SessionBatch(*(t.pin_memory() if pinned else t for t in tensors))

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, unless it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.next_batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return epoch and next batch."""
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was called."""
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]

    def _without_targets(self, rows: Array) -> SessionBatch:
        """Return a batch for a rank that gets no row: something to compute on, without targets."""
        batch = self._gather(rows)
        return batch._replace(target=np.full_like(batch.target, PAD), target_weight=np.zeros_like(batch.target_weight))

    def _gather(self, rows: Array, chance: Array | None = None) -> SessionBatch:
        """Return the batch of the windows `rows`, as arrays; `chance` [B, L or more] draws the targets."""
        start, length, first_query = (column[rows] for column in self.windows)
        position, valid = history_positions(start + length, length, self.max_length)
        data = self.prepared
        inputs = np.empty((*position.shape, len(self.inputs)), dtype=np.int64)
        for k, name in enumerate(self.inputs):
            if name == TIME:
                inputs[:, :, k] = time_codes(gather(data.timestamp, position, valid))
            else:
                inputs[:, :, k] = gather(data.inputs[name], position, valid)
        item_index = gather(data.item_index, position, valid)
        position += 1
        is_query = valid & (np.arange(position.shape[1]) >= first_query[:, None])
        if self.ahead is not None and chance is not None:
            position[is_query] = self.ahead.draw(position[is_query] - 1, chance[:, : position.shape[1]][is_query])
        target_type = gather(data.event_type, position, valid)
        weight = np.where(is_query, self.weights[target_type], np.float32(0))
        target = gather(data.item_index, position, weight != 0)
        seconds = time_codes(gather(data.timestamp, position, valid)) if TIME in self.inputs else np.zeros_like(target)
        return SessionBatch(item_index, inputs, target, target_type, weight, position, seconds)

    def _count_targets(self, begin: Array, stop: Array) -> Array:
        """Return [W] how many events with a weight other than 0 each range has; none may be empty."""
        if self.weights.all() or len(begin) == 0:
            return stop - begin
        is_target = np.take(self.weights != 0, self.prepared.event_type)
        flags = np.append(is_target, False)  # so that a row may end where the events do
        return np.add.reduceat(flags, np.stack([begin, stop], axis=1).ravel(), dtype=np.int64)[::2]

    def _target_range(self, windows: Windows) -> tuple[Array, Array]:
        """Return [W], [W] the range of events in which a row's targets are; never empty."""
        return windows.start + windows.first_query + 1, windows.start + windows.length + 1
