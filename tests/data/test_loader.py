"""The loader: which events become targets, what the model sees before them, and in which batches.

Every event has an item of its own in most tests, so that an item names the event it came from.
"""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ranks import of_each_rank

from twotower.core.batch import SessionBatch
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.data import loader as loader_module
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.data.target_weights import type_weights

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
    refit = training_loader(prepared, 4, 10, seed=0, include_validation=True)
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


@pytest.mark.parametrize(("max_length", "size"), [(20, 512), (50, 2048)])
def test_real_lengths_leave_less_than_a_twentieth_to_padding(make_prepared, max_length: int, size: int) -> None:
    """Visits' lengths are about geometric; so are these, of 5 events on average."""
    lengths = 1 + np.random.default_rng(0).geometric(0.25, size=20_000)
    sessions = np.split(np.ones(lengths.sum(), dtype=int), np.cumsum(lengths)[:-1])
    loader = training_loader(make_prepared([s.tolist() for s in sessions]), max_length, size, seed=0)
    batches = list(loader)
    events = sum(int((b.item_index != PAD).sum()) for b in batches)
    assert events / sum(b.item_index.numel() for b in batches) > 0.95
    assert events / len(batches) == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("size", [30, 200, 10_000])
def test_the_largest_batch_is_known_before_any_is_made(make_prepared, size: int) -> None:
    prepared = make_prepared(distinct_sessions(random_lengths(3, 60, 30)))
    for loader in (training_loader(prepared, 12, size, seed=0), query_loader(prepared, "validation", 12, size)):
        assert loader.largest_batch == max((batch.item_index.numel() for batch in loader), default=0)


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
    shares = of_each_rank(monkeypatch, world, load)
    assert all(len(share) == len(alone) for share in shares)
    for batch, *parts in zip(alone, *shares, strict=True):
        assert Counter(rows_of(batch)) == Counter(row for part in parts for row in rows_of(part))
        assert all(len(part.item_index) for part in parts), "no rank is left without a row to compute on"
        assert batch.target_weight.sum() == sum(part.target_weight.sum() for part in parts)


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
    assert batch.inputs.shape == (1, 2, 0)
    assert batch.target.tolist() == [[5, 6]]
    assert batch.target_weight.tolist() == [[1.0, 1.0]]


def test_columns_have_the_types_that_torch_needs(make_prepared) -> None:
    prepared = make_prepared([[4, 5, 6]], inputs={"hour": [[1, 2, 3]]})
    (batch,) = list(training_loader(prepared, 5, 100, seed=0, inputs=["hour"]))
    kinds = {name: column.dtype for name, column in batch._asdict().items()}
    assert kinds.pop("target_weight") == torch.float32
    assert set(kinds.values()) == {torch.int64}


def test_batches_are_pinned_where_there_is_a_gpu(make_prepared, monkeypatch) -> None:
    prepared = make_prepared([[4, 5, 6]], inputs={"hour": [[1, 2, 3]]})
    pinned = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    loader = training_loader(prepared, 5, 100, seed=0, inputs=["hour"])
    assert len(list(loader)) == 1
    assert not pinned
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (batch,) = list(loader)
    assert [id(column) for column in batch] == [id(column) for column in pinned]


# Items, codes, target, type, weight, and where the target lies among all events.
Target = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int, int, float, int]


def targets_of(batches: list[SessionBatch]) -> list[Target]:
    """Each target of all batches with what is seen before it."""
    result = []
    for batch in batches:
        assert batch.item_index.shape == batch.target.shape == batch.target_type.shape == batch.target_weight.shape
        assert ((batch.target != PAD) == (batch.target_weight != 0)).all()
        for row, position in (batch.target_weight != 0).nonzero().tolist():
            seen = slice(0, position + 1)
            items, codes = batch.item_index[row, seen].tolist(), batch.inputs[row, seen].tolist()
            own = (column[row, position].item() for column in batch[2:6])
            result.append((tuple(items), tuple(map(tuple, codes)), *own))
    return result


@pytest.mark.parametrize("max_length", [1, 3, 50])
@pytest.mark.parametrize(
    "weights",
    [None, {"buy": 4.0, "remove": -1.5}, {"view": 0, "look": 0}, {"view": 0, "look": 0, "buy": 0.5, "remove": -2}],
)
def test_weights_and_inputs_equal_a_naive_loop(make_prepared, monkeypatch, max_length: int, weights) -> None:
    monkeypatch.setattr(loader_module, "WINDOWS_AT_ONCE", 10)  # so that counting takes several turns
    random = np.random.default_rng(11)
    names = ("view", "buy", "remove", "look")
    lengths = [*random_lengths(11, 60, 20), 2, 1, max_length + 2]
    sessions, types, hours, gaps = (
        [random.integers(low, high, size=n).tolist() for n in lengths]
        for low, high in ((1, 31), (0, 4), (0, 25), (0, 64))
    )
    types[-2:] = [[0], [3] * (max_length + 2)]
    train = [int(random.integers(0, n + 1)) for n in lengths]
    validation = [int(random.integers(0, n - t + 1)) for n, t in zip(lengths, train, strict=True)]
    inputs = {"hour": hours, "other": types, "gap": gaps}
    prepared = make_prepared(sessions, train, validation, 30, types, event_types=names, inputs=inputs)
    of_type = [(weights or {}).get(name, 1) for name in names]

    def expected(part: str, min_history: int) -> list[Target]:
        result = []
        for s, (session, t, v) in enumerate(zip(sessions, train, validation, strict=True)):
            begin, end = {"training": (1, t), "validation": (t, t + v), "test": (t + v, len(session))}[part]
            for p in range(max(begin, min_history), end):
                weight = of_type[types[s][p]]
                if weight == 0 or (part != "training" and weight < 0):
                    continue
                first = max(0, p - max_length)
                if part == "training":  # a row of max_length, then rows whose first half is context
                    step = max_length - max_length // 2
                    first = max(0, p - 1 - max_length // 2) // step * step
                codes = tuple((hours[s][q], gaps[s][q]) for q in range(first, p))
                event = sum(lengths[:s]) + p
                result.append((tuple(session[first:p]), codes, session[p], types[s][p], weight, event))
        return result

    how = {"inputs": ["hour", "gap"], "target_weights": weights}
    loaders = {
        ("training", 1): training_loader(prepared, max_length, 40, seed=0, **how),
        ("validation", 1): query_loader(prepared, "validation", max_length, 40, **how),
        ("test", 3): query_loader(prepared, "test", max_length, 40, 3, **how),
    }
    for (part, min_history), loader in loaders.items():
        batches = list(loader)
        wanted = expected(part, min_history)
        assert wanted
        assert Counter(targets_of(batches)) == Counter(wanted)
        assert loader.num_queries == len(wanted)
        assert loader.target_counts().tolist() == np.bincount([w[2] for w in wanted], minlength=31).tolist()
        assert all((batch.target_weight != 0).any(dim=1).all() for batch in batches), "no row without a target"


@pytest.mark.parametrize("part", ["train", "test"])
def test_times_are_whole_seconds_and_need_no_file(make_prepared, part: str) -> None:
    times = [[1_700_000_000_999, 1_700_000_001_000, 1_700_000_007_500], [1_700_100_000_001, 1_700_100_000_002]]
    hours = [[1, 2, 3], [4, 5]]
    prepared = make_prepared(
        [[1, 2, 3], [3, 2]], [3, 2] if part == "train" else [1, 1], [0, 0], timestamps=times, inputs={"hour": hours}
    )
    if part == "train":
        (batch,) = training_loader(prepared, 5, 100, seed=0, inputs=["time", "hour"])
    else:
        (batch,) = query_loader(prepared, "test", 5, 100, inputs=["time", "hour"])
    rows = {tuple(items): codes for items, codes in zip(batch.item_index.tolist(), batch.inputs.tolist(), strict=True)}
    assert rows == {
        (1, 2): [[1_700_000_000, 1], [1_700_000_001, 2]],
        (3, 0): [[1_700_100_000, 4], [0, 0]],
    }
    seconds = [time // 1000 for row in times for time in row]
    is_target = batch.target != 0
    assert batch.target_time[is_target].tolist() == [seconds[event] for event in batch.event[is_target].tolist()]
    plain = training_loader(prepared, 5, 100, seed=0, inputs=["hour"])
    assert not any(batch.target_time.any() for batch in plain), "without the input `time` none is read"


def test_inputs_that_the_data_does_not_have_are_named(make_prepared) -> None:
    prepared = make_prepared([[1, 2]], inputs={"hour": [[1, 2]]})
    with pytest.raises(UserError, match=r"model\.inputs names 'hours'.*did you mean 'hour'"):
        training_loader(prepared, 5, 10, seed=0, inputs=["hours"])
    with pytest.raises(UserError, match="it has none"):
        query_loader(make_prepared([[1, 2]]), "test", 5, 10, inputs=["hour"])


def test_a_weight_belongs_to_its_type_and_others_weigh_one() -> None:
    names = ["buy", "look", "view"]
    assert type_weights(names, None).tolist() == [1.0, 1.0, 1.0]
    assert type_weights(names, {}).tolist() == [1.0, 1.0, 1.0]
    weights = type_weights(names, {"view": 0.5, "look": -2})
    assert weights.tolist() == [1.0, -2.0, 0.5]
    assert weights.dtype == np.float32


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"veiw": 1}, "'veiw'; there are buy, look, view; did you mean 'view'"),
        ({"view": "high"}, "target_weights.view=high; expected a number"),
        ({"view": True}, "target_weights.view=True"),
        ({"view": float("nan")}, "target_weights.view=nan"),
        ({"buy": 0, "look": -1, "view": 0}, "positive weight"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, message: str) -> None:
    with pytest.raises(UserError, match=message):
        type_weights(["buy", "look", "view"], weights)
