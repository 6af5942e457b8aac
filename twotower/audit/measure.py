"""Measures of the prepared arrays for the audit, taken block by block so that memory stays small.

Shapes: E events, S sessions, V items, N pairs of an event and the next one; of one block: e events, s sessions.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.event_codes import EVENT_TYPE, MS_PER_DAY, SIZES
from twotower.core.schema import Prepared, input_file

BLOCK = 2_000_000  # events
SAMPLE = 2_000_000  # events whose contexts are measured
TRAIN, VALIDATION, TEST = 0, 1, 2
MINUTE_MS = 60_000


class Context(NamedTuple):
    """How often a majority rule predicts an item, over `pairs` whose items differ and whose code is known.

    Rules are fitted on one half of the sessions and counted on the other.

    >>> Context(pairs=100, next_by_code=90, this_by_code=3, next_by_item=10, next_by_popularity=2).next_by_code / 100
    0.9
    """

    pairs: int
    next_by_code: int  # the item of the next event, by this event's code
    this_by_code: int  # the item of this event, by its code
    next_by_item: int  # the item of the next event, by this event's item
    next_by_popularity: int


class Measures(NamedTuple):
    """Counts over all events.

    >>> sorted(set(Measures._fields) - set(COUNTS))
    ['codes', 'contexts', 'test_start', 'train_count']
    """

    before_test: int  # training and validation events
    test_start: int  # after which none of them should be
    late: int  # ... and how many are
    misplaced: int  # events in another part than that of their time, where the starts of both windows are known
    mixed_sessions: int  # with events in more than one part, or in the test and before where preparation cut validation
    early: int  # events before `earliest`
    future: int  # events after `latest`
    whole_minutes: int  # events on a full minute
    whole_days: int  # events at midnight, UTC
    queries: int  # test events with a history
    train_count: Array  # [V] training events by item
    codes: dict[str, Array]  # input -> [size, 2] events before the test, and test events, by code
    contexts: dict[str, Context]  # declared event feature -> what it predicts


COUNTS = (
    "before_test",
    "late",
    "misplaced",
    "mixed_sessions",
    "early",
    "future",
    "whole_minutes",
    "whole_days",
    "queries",
)


class _Block(NamedTuple):
    first: int  # number of its first session
    starts: Array  # [s] first event of each session, counted from the block's first event
    lengths: Array  # [s]
    known: Array  # [s] events before the test part
    item_index: Array  # [e]
    timestamp: Array  # [e]
    part: Array  # [e]
    inputs: dict[str, Array]  # [e] each


def measure(prepared: Prepared, split: dict[str, Any], earliest: int, latest: int) -> Measures:
    """Measure a prepared directory in one pass, or two where the split has no start of the test.

    Args:
        prepared: its arrays are read from disk again, so that pages of the memory map are released.
        split: the manifest's; a temporal one has the start of the test, which else is the first test event.
        earliest: timestamps below it are counted.
        latest: timestamps above it are counted.
    """
    validation_start, test_start = starts = split.get("validation_start"), split.get("test_start")
    if test_start is None:
        never = np.iinfo(np.int64).max
        test_start = min(int(b.timestamp[b.part == TEST].min(initial=never)) for b in _blocks(prepared, ()))
    sizes = prepared.manifest["inputs"]
    features = [name for name in sizes if name not in SIZES and name != EVENT_TYPE]
    step = -(-len(prepared.item_index) // SAMPLE)
    sums = dict.fromkeys(COUNTS, 0)
    train_count = np.zeros(prepared.num_items + 1, dtype=np.int64)
    codes = {name: np.zeros(2 * size, dtype=np.int64) for name, size in sizes.items()}
    pairs = []
    for block in _blocks(prepared, sizes):
        time, part, before_test = block.timestamp, block.part, block.part != TEST
        # Preparation itself cuts sessions where validation begins.
        label = part if validation_start is None else part == TEST
        flags = {
            "before_test": before_test,
            "late": before_test & (time > test_start),
            "misplaced": 0 if None in starts else part != sum((time >= start).view(np.int8) for start in starts),
            "mixed_sessions": label[block.starts] != label[block.starts + block.lengths - 1],
            "early": time < earliest,
            "future": time > latest,
            "whole_minutes": time % MINUTE_MS == 0,
            "whole_days": time % MS_PER_DAY == 0,
        }
        for name, flag in flags.items():
            sums[name] += int(np.count_nonzero(flag))
        sums["queries"] += int(np.maximum(block.lengths - np.maximum(block.known, 1), 0).sum())
        train_count += np.bincount(block.item_index[part == TRAIN], minlength=len(train_count))
        for name, code in block.inputs.items():
            codes[name] += np.bincount(2 * code.astype(np.int64) + (part == TEST), minlength=len(codes[name]))
        if features:
            pairs.append(_pairs(block, features, step))
    contexts = _contexts(features, np.concatenate(pairs, axis=1), sizes, prepared.num_items) if pairs else {}
    by_part = {name: count.reshape(-1, 2) for name, count in codes.items()}
    return Measures(test_start=test_start, train_count=train_count[1:], codes=by_part, contexts=contexts, **sums)


def _blocks(prepared: Prepared, inputs: Iterable[str]) -> Iterator[_Block]:
    """Yield blocks of whole sessions of about BLOCK events, with these event inputs."""
    offsets = prepared.offsets
    first, sessions = 0, len(offsets) - 1
    while first < sessions:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1)
        low, high = int(offsets[first]), int(offsets[last])
        bounds = _read(prepared, "offsets", first, last + 1) - low
        starts, lengths = bounds[:-1], np.diff(bounds)
        train, known = (_read(prepared, name, first, last) - low - starts for name in ("train_end", "validation_end"))
        of_parts = np.stack([train, known - train, lengths - known], axis=1)
        yield _Block(
            first=first,
            starts=starts,
            lengths=lengths,
            known=known,
            item_index=_read(prepared, "item_index", low, high),
            timestamp=_read(prepared, "timestamp", low, high),
            part=np.repeat(np.tile(np.arange(3, dtype=np.int8), len(lengths)), of_parts.ravel()),
            inputs={name: _read(prepared, input_file(name)[:-4], low, high) for name in inputs},
        )
        first = last


def _read(prepared: Prepared, name: str, low: int, high: int) -> Array:
    return np.array(np.load(prepared.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)[low:high])


def _pairs(block: _Block, features: list[str], step: int) -> Array:
    """Return [3 + features, n] half, item, next item and codes of events before another item, of 1 / step of all."""
    session = np.repeat(block.first + np.arange(len(block.starts)), block.lengths)[:-1]
    follows = np.ones(len(session), dtype=bool)
    follows[block.starts[1:] - 1] = False
    item, following = block.item_index[:-1], block.item_index[1:]
    at = np.flatnonzero(follows & (item != following) & (session // 2 % step == 0))
    rows = [session % 2, item, following, *(block.inputs[name][:-1] for name in features)]
    return np.stack([row[at].astype(np.int32) for row in rows])


def _contexts(features: list[str], pairs: Array, sizes: dict[str, int], items: int) -> dict[str, Context]:
    contexts = {}
    for row, name in enumerate(features):
        half, item, following, code = pairs[[0, 1, 2, 3 + row]][:, pairs[3 + row] > 0]
        fit, check = half == 0, half == 1
        rules = [  # predicted by, number of keys, what is predicted
            (code, sizes[name], following),
            (code, sizes[name], item),
            (item, items + 1, following),
            (np.zeros_like(code), 1, following),
        ]
        hits = [
            int(np.count_nonzero(_majority(key[fit], value[fit], size)[key[check]] == value[check]))
            for key, size, value in rules
        ]
        contexts[name] = Context(int(np.count_nonzero(check)), *hits)
    return contexts


def _majority(key: Array, value: Array, size: int) -> Array:
    """Return [size] the commonest value of each key; for a key that does not occur the commonest of all."""
    span = int(value.max(initial=0)) + 1
    pairs, counts = np.unique(key.astype(np.int64) * span + value, return_counts=True)
    order = np.argsort(counts, kind="stable")
    best = np.full(size, np.argmax(np.bincount(value, minlength=1)))
    best[pairs[order] // span] = pairs[order] % span  # of several for one key the last, so the commonest, remains
    return best
