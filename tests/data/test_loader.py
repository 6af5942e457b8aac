"""The loader: which events become targets, what the model sees before them, and in which batches.

Every event has an item of its own in most tests, so that an item names the event it came from.
"""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from twotower.batch import SessionBatch
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.schema import PAD

Row = tuple[tuple[int, ...], tuple[int, ...]]


def distinct_sessions(lengths: list[int]) -> list[list[int]]:
    """Sessions of the given lengths whose events are 1, 2, 3, ..."""
    ends = np.cumsum(lengths)
    return [list(range(int(e - n) + 1, int(e) + 1)) for n, e in zip(lengths, ends, strict=True)]


def random_lengths(seed: int, sessions: int, longest: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, longest + 1, size=sessions).tolist()


def rows_of(batch: SessionBatch) -> list[Row]:
    """A batch's rows that have a target: the history without padding, and the targets below it."""
    rows = []
    for items, targets in zip(batch.item_index.tolist(), batch.target.tolist(), strict=True):
        history = tuple(i for i in items if i != PAD)
        assert items[: len(history)] == list(history), "padding must stand on the right"
        if any(targets):
            rows.append((history, tuple(targets[: len(history)])))
        assert not any(targets[len(history) :]), "padding has no target"
    return rows


def content(batches: list[SessionBatch]) -> list[list[list[Any]]]:
    return [[column.tolist() for column in batch] for batch in batches]


def queries(loader: SessionLoader) -> list[tuple[int, tuple[int, ...]]]:
    """(target, the history shown up to its position) of each query."""
    return [
        (target, history[: position + 1])
        for batch in loader
        for history, targets in rows_of(batch)
        for position, target in enumerate(targets)
        if target != PAD
    ]


@pytest.mark.parametrize("max_length", [1, 2, 7, 50, 500])
def test_every_event_but_each_sessions_first_is_a_training_target_once(make_prepared, max_length: int) -> None:
    sessions = distinct_sessions([*random_lengths(1, 60, 200), 1, 2, 3, max_length, max_length + 1, 2 * max_length + 1])
    loader = training_loader(make_prepared(sessions), max_length, 300, seed=0)
    seen = queries(loader)
    assert Counter(target for target, _ in seen) == Counter(i for session in sessions for i in session[1:])
    assert loader.num_queries == len(seen)
    before = {b: a for session in sessions for a, b in pairwise(session)}
    for target, history in seen:
        assert history[-1] == before[target]
        assert list(history) == list(range(history[0], target)), "the history is what came just before"
        assert len(history) <= max_length


def test_training_sees_nothing_after_train_end_unless_validation_is_learnt_too(make_prepared) -> None:
    sessions = distinct_sessions([6, 5, 1])
    prepared = make_prepared(sessions, train=[3, 0, 1], validation=[2, 2, 0])
    targets = {target for target, _ in queries(training_loader(prepared, 4, 10, seed=0))}
    assert targets == {2, 3}
    refit = training_loader(prepared, 4, 10, seed=0, validation_too=True)
    assert {target for target, _ in queries(refit)} == {2, 3, 4, 5, 8}


@pytest.mark.parametrize("min_history", [1, 3, 10])
@pytest.mark.parametrize("max_length", [1, 4, 20])
def test_every_query_comes_once_with_the_last_events_before_it(
    make_prepared, max_length: int, min_history: int
) -> None:
    lengths = [*random_lengths(2, 80, 45), 1, 2, max_length, max_length + 1, max_length + 2]
    sessions = distinct_sessions(lengths)
    random = np.random.default_rng(3)
    train = [int(random.integers(0, n + 1)) for n in lengths]
    validation = [int(random.integers(0, n - t + 1)) for n, t in zip(lengths, train, strict=True)]
    prepared = make_prepared(sessions, train, validation)
    for part in ("validation", "test"):
        expected = []
        for session, t, v in zip(sessions, train, validation, strict=True):
            begin, end = (t, t + v) if part == "validation" else (t + v, len(session))
            for position in range(begin, end):
                if position >= min_history:
                    expected.append((session[position], tuple(session[:position][-max_length:])))
        loader = query_loader(prepared, part, max_length, 100, min_history)
        assert sorted(queries(loader)) == sorted(expected)
        assert loader.num_queries == len(expected)


def test_a_query_without_any_history_is_no_query(make_prepared) -> None:
    prepared = make_prepared(distinct_sessions([3, 1]), train=[0, 0])
    with pytest.raises(ValueError, match="min_history"):
        query_loader(prepared, "validation", 5, 10, min_history=0)


def test_event_types_stand_beside_their_targets(make_prepared) -> None:
    sessions = distinct_sessions([5, 3, 9, 1])
    types = [[(i * 7) % 3 for i in session] for session in sessions]
    prepared = make_prepared(sessions, types=types, event_types=("view", "cart", "buy"))
    type_of = {i: t for s, ts in zip(sessions, types, strict=True) for i, t in zip(s, ts, strict=True)}
    for batch in training_loader(prepared, 4, 8, seed=0):
        is_query = batch.target != PAD
        assert batch.target_type[is_query].tolist() == [type_of[i] for i in batch.target[is_query].tolist()]


def test_batches_hold_about_as_many_events_as_asked_with_little_padding(make_prepared) -> None:
    max_length, size = 40, 800
    prepared = make_prepared(distinct_sessions(random_lengths(4, 600, 60)))
    loader = training_loader(prepared, max_length, size, seed=0)
    batches = list(loader)
    assert len(batches) == len(loader)
    events = [int((b.item_index != PAD).sum()) for b in batches]
    assert size / 1.5 <= sum(events) / len(events) <= size * 1.5
    assert max(events) - min(events) <= 2 * max_length
    cells = sum(b.item_index.numel() for b in batches)
    assert sum(events) / cells > 0.93


def test_each_epoch_has_all_windows_once_in_another_order(make_prepared) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(5, 200, 30)))
    loader = training_loader(prepared, 10, 100, seed=7)
    first, second = list(loader), list(loader)
    rows = [[row for batch in epoch for row in rows_of(batch)] for epoch in (first, second)]
    assert Counter(rows[0]) == Counter(rows[1])
    assert max(Counter(rows[0]).values()) == 1
    assert rows[0] != rows[1]
    batches = [{frozenset(rows_of(b)) for b in epoch} for epoch in (first, second)]
    assert len(batches[0] & batches[1]) < len(first) / 2, "rows are shuffled too, not batches alone"


def test_the_seed_alone_decides_the_order(make_prepared) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(6, 100, 30)))
    same = [training_loader(prepared, 10, 100, seed=7) for _ in range(2)]
    other = training_loader(prepared, 10, 100, seed=8)
    assert content(list(same[0])) == content(list(same[1]))
    assert content(list(same[0])) == content(list(same[1])), "in the next epoch too"
    assert content(list(training_loader(prepared, 10, 100, seed=7))) != content(list(other))


def test_queries_come_in_the_same_order_each_time(make_prepared) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(6, 50, 30)), train=[0] * 50)
    loader = query_loader(prepared, "validation", 10, 100)
    first = content(list(loader))
    assert first == content(list(loader))
    next(iter(loader))  # broken off
    assert first == content(list(loader))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("size", [200, 12])  # 12: some batches have fewer rows than there are ranks
@pytest.mark.parametrize("part", ["training", "validation"])
def test_ranks_share_each_batch_out(make_prepared, monkeypatch, part: str, size: int, world: int) -> None:
    sessions = distinct_sessions([*random_lengths(8, 60, 14), 13, 13, 13])
    prepared = make_prepared(sessions, train=[len(s) if part == "training" else 0 for s in sessions])

    def load() -> list[SessionBatch]:
        if part == "training":
            return list(training_loader(prepared, 12, size, seed=1))
        return list(query_loader(prepared, part, 12, size))

    alone = load()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(load())
    assert all(len(share) == len(alone) for share in shares)
    for batch, *parts in zip(alone, *shares, strict=True):
        assert Counter(rows_of(batch)) == Counter(row for part in parts for row in rows_of(part))
        assert all(len(part.item_index) for part in parts), "no rank is left without a row to compute on"


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_restored_loader_goes_on_with_the_next_batch(make_prepared, taken: int) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(9, 100, 30)))

    def fresh() -> SessionLoader:
        return training_loader(prepared, 10, 100, seed=3)

    loader = fresh()
    epochs = [content(list(loader)) for _ in range(4)]
    assert len(epochs[0]) > 6
    interrupted = fresh()
    list(interrupted)  # epoch 0
    batches = iter(interrupted)
    for _ in range(taken):
        next(batches)
    state = interrupted.state_dict()
    assert all(isinstance(value, int) for value in state.values())
    restored = fresh()
    restored.load_state_dict(state)
    if taken:
        assert content(list(restored)) == epochs[1][taken:]
    else:  # iteration has not begun: the state is the end of epoch 0
        assert content(list(restored)) == epochs[1]
    assert content(list(restored)) == epochs[2]
    assert content(list(restored)) == epochs[3]


@pytest.mark.parametrize("exhausted", [True, False])
def test_a_loader_restored_after_the_last_batch_begins_the_next_epoch(make_prepared, exhausted: bool) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(9, 60, 30)))
    loader = training_loader(prepared, 10, 100, seed=3)
    epochs = [content(list(loader)) for _ in range(2)]
    interrupted = training_loader(prepared, 10, 100, seed=3)
    batches = iter(interrupted)
    for _ in range(len(interrupted)):
        next(batches)
    assert not exhausted or next(batches, None) is None
    restored = training_loader(prepared, 10, 100, seed=3)
    restored.load_state_dict(interrupted.state_dict())
    assert content(list(restored)) == epochs[1]


def test_target_counts_are_what_a_loop_counts(make_prepared) -> None:
    random = np.random.default_rng(10)
    lengths = random_lengths(10, 70, 40)
    sessions = [random.integers(1, 16, size=n).tolist() for n in lengths]
    train = [int(random.integers(0, n + 1)) for n in lengths]
    prepared = make_prepared(sessions, train, num_items=20)
    expected = [0] * 21
    for session, t in zip(sessions, train, strict=True):
        for item in session[1:t]:
            expected[item] += 1
    assert training_loader(prepared, 6, 50, seed=0).target_counts().tolist() == expected
    expected = [0] * 21
    for session, t in zip(sessions, train, strict=True):
        for item in session[max(t, 2) :]:
            expected[item] += 1
    assert query_loader(prepared, "validation", 6, 50, min_history=2).target_counts().tolist() == expected


def test_without_any_target_there_is_no_batch(make_prepared) -> None:
    prepared = make_prepared([[1], [2], [1]], num_items=3)
    for loader in (training_loader(prepared, 5, 10, seed=0), query_loader(prepared, "test", 5, 10)):
        assert len(loader) == 0
        assert loader.num_queries == 0
        assert list(loader) == list(loader) == []
        assert loader.target_counts().tolist() == [0, 0, 0, 0]


def test_one_window_is_one_batch(make_prepared) -> None:
    loader = training_loader(make_prepared([[4, 5, 6]]), 5, 10_000, seed=0)
    (batch,) = list(loader)
    assert len(loader) == 1
    assert batch.item_index.tolist() == [[4, 5]]
    assert batch.target.tolist() == [[5, 6]]
