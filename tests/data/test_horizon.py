"""The horizon: which events are ahead, how often each is drawn, and what the draws depend on, against naive loops.

Every event has an item of its own where draws are looked at, so that an item names the event it came from.
"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from ranks import of_each_rank

from twotower.core.batch import SessionBatch
from twotower.core.errors import UserError
from twotower.core.event_codes import MS_PER_DAY
from twotower.core.schema import PAD, Prepared
from twotower.data import loader as loader_module
from twotower.data.horizon import NEXT, SESSION, events_ahead
from twotower.data.loader import SessionLoader, training_loader

HORIZONS = [SESSION, 3, 0.5]


def log(make_prepared: Any, seed: int, sessions: int, longest: int, items: int | None = None) -> Prepared:
    """Sessions of 1 to `longest` events, a few of them at the same time as the one before, in all three parts."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, sessions)
    number = iter(range(1, lengths.sum() + 1))
    rows = [[int(random.integers(1, items)) if items else next(number) for _ in range(n)] for n in lengths]
    gaps = [random.choice([0, 1, MS_PER_DAY // 2, MS_PER_DAY, 5 * MS_PER_DAY], n) for n in lengths]
    train = [int(random.integers(0, n + 1)) for n in lengths]
    validation = [int(random.integers(0, n - t + 1)) for n, t in zip(lengths, train, strict=True)]
    return make_prepared(  # type: ignore[no-any-return] # a fixture without types
        rows, train, validation, items or int(lengths.sum()),
        types=[random.integers(0, 3, n).tolist() for n in lengths], event_types=("view", "cart", "remove"),
        timestamps=[(1_700_000_000_000 + np.cumsum(gap)).tolist() for gap in gaps],
        inputs={"gap": [[1] * n for n in lengths]},
    )  # fmt: skip


def ahead_of(prepared: Prepared, position: int, stop: int, horizon: str | float) -> list[int]:
    """The events ahead of `position`, by a loop: `stop` is where the part of its session ends."""
    later = range(position + 1, stop)
    if horizon == SESSION:
        return list(later)
    latest = prepared.timestamp[position] + float(horizon) * MS_PER_DAY
    return [p for p in later if p == position + 1 or prepared.timestamp[p] <= latest]


def training_positions(prepared: Prepared, end: Any) -> list[tuple[int, int]]:
    """Each position that has a next event in training, and the end of its session's training part."""
    spans = zip(prepared.offsets[:-1].tolist(), end.tolist(), strict=True)
    return [(position, stop) for start, stop in spans for position in range(start, stop - 1)]


def drawn(batches: list[SessionBatch]) -> dict[int, int]:
    """The event drawn for each position, by event; items are numbers of events, from 1."""
    masks = [batch.target != PAD for batch in batches]
    positions, targets, events = (
        [item for batch, mask in zip(batches, masks, strict=True) for item in getattr(batch, name)[mask].tolist()]
        for name in ("item_index", "target", "event")
    )
    assert len(set(positions)) == len(positions), "each position is a query once"
    assert [target - 1 for target in targets] == events
    return {position - 1: event for position, event in zip(positions, events, strict=True)}


@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_events_ahead_are_those_of_a_loop(make_prepared, horizon: str | float) -> None:
    prepared = log(make_prepared, 0, 40, 30)
    for end in (prepared.train_end, prepared.validation_end, prepared.offsets[1:]):
        positions = training_positions(prepared, end)
        ahead = events_ahead(horizon, prepared, end)
        assert ahead is not None
        expected = [ahead_of(prepared, position, stop, horizon)[-1] + 1 for position, stop in positions]
        assert ahead.stop(np.array([position for position, _ in positions])).tolist() == expected


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("refit", [False, True])
def test_each_event_ahead_is_drawn_equally_often_and_no_other(make_prepared, horizon: str | float, refit: bool) -> None:
    prepared, epochs = log(make_prepared, 1, 12, 9), 400
    loader = training_loader(prepared, 4, 40, seed=0, include_validation=refit, horizon=horizon)
    pairs: Counter[tuple[int, int]] = Counter()
    for _ in range(epochs):
        pairs.update(drawn(list(loader)).items())
    expected = {
        (position, event): epochs / len(events)
        for position, stop in training_positions(prepared, prepared.fit_end(refit))
        for events in [ahead_of(prepared, position, stop, horizon)]
        for event in events
    }
    assert pairs.keys() == expected.keys()
    for pair, times in expected.items():
        share = times / epochs
        assert abs(pairs[pair] - times) <= 4.5 * np.sqrt(epochs * share * (1 - share)), pair


@pytest.mark.parametrize("horizon", HORIZONS)
def test_type_and_weight_are_those_of_the_drawn_event(make_prepared, horizon: str | float) -> None:
    prepared = log(make_prepared, 2, 40, 12)
    weights = {"view": 0, "cart": 2.0, "remove": -1}
    loader = training_loader(prepared, 5, 100, seed=0, horizon=horizon, target_weights=weights)
    of_type = np.array([0, 2.0, -1])
    allowed = {
        (position, event)
        for position, stop in training_positions(prepared, prepared.train_end)
        for event in ahead_of(prepared, position, stop, horizon)
        if prepared.event_type[event] != 0
    }
    seen = set()
    for _ in range(60):
        batches = list(loader)
        seen |= set(drawn(batches).items())
        for batch in batches:
            is_target = batch.target != PAD
            event = batch.event[is_target].numpy()
            assert (batch.target_type[is_target].numpy() == prepared.event_type[event]).all()
            assert (batch.target_weight[is_target].numpy() == of_type[prepared.event_type[event]]).all()
            assert (batch.target_weight[~is_target] == 0).all()
    assert seen <= allowed and len(seen) > 0.9 * len(allowed)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("max_length", [3, 50])
@pytest.mark.parametrize("weights", [None, {"view": 0, "remove": -3}])
def test_expected_counts_are_what_a_loop_counts(make_prepared, monkeypatch, horizon, max_length: int, weights) -> None:
    monkeypatch.setattr(loader_module, "WINDOWS_AT_ONCE", 7)  # so that counting takes several turns
    prepared = log(make_prepared, 3, 60, 25, items=40)
    expected = np.zeros(41)
    for position, stop in training_positions(prepared, prepared.validation_end):
        events = ahead_of(prepared, position, stop, horizon)
        for event in events:
            if not weights or prepared.event_type[event] != 0:
                expected[prepared.item_index[event]] += 1 / len(events)
    how = {"include_validation": True, "target_weights": weights, "horizon": horizon}
    counts = training_loader(prepared, max_length, 50, 0, **how).target_counts()
    np.testing.assert_allclose(counts, expected, rtol=1e-12)
    assert ((counts == 0) == (expected == 0)).all(), "an item that is never drawn is cold"


def test_events_that_are_never_drawn_count_exactly_zero(make_prepared) -> None:
    random = np.random.default_rng(0)
    firsts = [[i, *random.integers(101, 200, 1 + i % 13).tolist()] for i in range(1, 101)]
    counts = training_loader(make_prepared(firsts, num_items=200), 4, 50, 0, horizon=SESSION).target_counts()
    assert (counts[:101] == 0).all()
    assert counts.sum() == pytest.approx(sum(len(session) - 1 for session in firsts))


@pytest.mark.parametrize("horizon", HORIZONS)
def test_draws_depend_on_seed_and_epoch_but_not_on_the_batches_before(make_prepared, horizon: str | float) -> None:
    prepared = log(make_prepared, 4, 120, 20)

    def fresh(seed: int = 3) -> SessionLoader:
        return training_loader(prepared, 8, 60, seed, horizon=horizon)

    def content(batches: list[SessionBatch]) -> list[list[Any]]:
        return [[column.tolist() for column in batch] for batch in batches]

    loader = fresh()
    epochs = [list(loader) for _ in range(3)]
    assert len({tuple(sorted(drawn(epoch).items())) for epoch in [*epochs, list(fresh(seed=4))]}) == 4
    batches = iter(interrupted := fresh())
    for _ in range(3):
        next(batches)
    for state, expected in ((interrupted.state_dict(), epochs[0][3:]), ({"epoch": 2, "next_batch": 5}, epochs[2][5:])):
        restored = fresh()
        restored.load_state_dict(state)
        assert content(list(restored)) == content(expected)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("size", [100, 12])  # 12: some batches have fewer rows than there are ranks
def test_ranks_draw_what_one_process_draws(make_prepared, monkeypatch, size: int, world: int) -> None:
    prepared = log(make_prepared, 5, 60, 14)

    def load() -> list[dict[int, int]]:
        return [drawn([batch]) for batch in training_loader(prepared, 6, size, seed=1, horizon=SESSION)]

    alone = load()
    shares = of_each_rank(monkeypatch, world, load)
    for batch, *parts in zip(alone, *shares, strict=True):
        assert batch == {position: event for part in parts for position, event in part.items()}
        assert len(batch) == sum(map(len, parts))


def test_next_draws_nothing(make_prepared) -> None:
    prepared = log(make_prepared, 6, 30, 12)
    assert events_ahead(NEXT, prepared, prepared.train_end) is None
    loader = training_loader(prepared, 5, 40, seed=0)
    assert all(event == position + 1 for position, event in drawn(list(loader)).items())
    assert loader.target_counts().dtype == np.int64


@pytest.mark.parametrize("horizon", ["sesion", 0, -1, True, float("nan"), float("inf"), None, "7"])
def test_other_horizons_are_refused(make_prepared, horizon: Any) -> None:
    prepared = log(make_prepared, 7, 3, 4)
    with pytest.raises(UserError, match=rf"horizon={horizon}; .*next, session or a number of days") as caught:
        training_loader(prepared, 5, 40, seed=0, horizon=horizon)
    assert ("did you mean 'session'" in str(caught.value)) == (horizon == "sesion")


def test_days_need_times(make_prepared) -> None:
    prepared = make_prepared([[1, 2, 3]])
    with pytest.raises(UserError, match=r"horizon=7 .*take session.*data.timestamp_unit"):
        training_loader(prepared, 5, 40, seed=0, horizon=7)
    assert len(training_loader(prepared, 5, 40, seed=0, horizon=SESSION)) == 1
