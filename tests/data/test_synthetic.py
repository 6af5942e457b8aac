"""The synthetic marketplace: an ordinary log, and a stated truth that is the truth."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.data import synthetic
from twotower.data.synthetic import Marketplace, State, World, build_world, generate

DAY_MS = 24 * 60 * 60 * 1000
START_MS = 1_735_689_600_000
SMALL = Marketplace(items=120, users=50, sessions=900, days=40, seed=3, repeat_share=0.2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("market") / "small"
    generate(out, SMALL)
    return out


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("market") / "large"
    generate(out, Marketplace(sessions=12_000), sessions_per_part=5_000, oracle=False)
    return out


def read_log(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "events").sort("session_id", "timestamp")


def naive_probabilities(world: World, state: State, b: int) -> list[float]:
    """The module's docstring, read literally for session b: one branch after the other, item by item."""
    period, start, count = int(state.period[b]), int(state.begin[b]), int(state.count[b])
    seen = [int(item) for item in state.items[start : start + count]]
    last_is_view = synthetic.KINDS[state.kinds[start + count - 1]] == "view"
    carted = None if state.basket[b] < 0 else int(state.basket[b])
    result = [0.0] * world.market.items
    left = 1.0
    if last_is_view:
        result[seen[-1]] += synthetic.CART
        left -= synthetic.CART
    if carted is not None:
        result[carted] += synthetic.REMOVE + synthetic.PURCHASE
        left -= synthetic.REMOVE + synthetic.PURCHASE
    for item in seen:
        result[item] += left * world.market.repeat_share / len(seen)
    by_popularity = left * (1 - world.market.repeat_share - synthetic.SUCCESSOR)
    for follower, weight in zip(world.successors[seen[-1]], synthetic.SUCCESSOR_WEIGHTS, strict=True):
        if world.created[follower] <= period:
            result[follower] += left * synthetic.SUCCESSOR * weight
        else:
            by_popularity += left * synthetic.SUCCESSOR * weight
    intents = [(int(state.intent[b]), synthetic.INTENT_STAYS)]
    for node, weight in zip(world.taste[state.user[b]], synthetic.TASTE_WEIGHTS, strict=True):
        intents.append((int(node), (1 - synthetic.INTENT_STAYS) * weight))
    for node, weight in intents:
        members = [i for i in range(world.market.items) if node in world.nodes[:, i]]
        mass = sum(world.popularity[period, i] for i in members)
        for i in members:
            result[i] += by_popularity * weight * world.popularity[period, i] / mass
    return result


def assert_frequencies(observed: np.ndarray, probability: np.ndarray) -> None:
    """Chi-square within five standard deviations; cells expected fewer than 5 times are put together."""
    expected = probability * observed.sum()
    assert not observed[probability == 0].any()
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    statistic = np.sum((observed - expected) ** 2 / np.maximum(expected, 1e-9))
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def later_events(state: State) -> State:
    return state.take(np.flatnonzero(state.count > 0))


# The log


def test_log_has_the_stated_columns(small: Path) -> None:
    assert dict(pl.read_parquet_schema(small / "events" / "part-00000.parquet")) == {
        "session_id": pl.Int64,
        "user_id": pl.Int64,
        "item_id": pl.String,
        "timestamp": pl.Int64,
        "event_type": pl.String,
    }
    log, items = read_log(small), pl.read_parquet(small / "items.parquet")
    assert items.columns == ["item_id", "category", "brand", "price", "created_at"]
    assert items["item_id"].to_list() == [f"sku-{number:05d}" for number in range(SMALL.items)]
    assert items["price"].min() > 0
    assert set(log["item_id"]) <= set(items["item_id"])
    assert set(log["event_type"]) == {"view", "cart", "remove", "purchase"}
    assert log["user_id"].is_between(0, SMALL.users - 1).all()
    assert log.group_by("session_id").agg(pl.col("user_id").n_unique())["user_id"].max() == 1
    assert items.group_by("brand").agg(pl.col("category").n_unique())["category"].max() == 1


def test_time_runs_forward_inside_the_span(small: Path) -> None:
    raw = pl.concat([pl.read_parquet(part) for part in sorted((small / "events").iterdir())])
    gap = pl.col("timestamp").diff().over("session_id")
    assert raw.select(gap.min()).item() > 0  # in the order of the file, not in one that the test made
    assert raw["timestamp"].is_between(START_MS, START_MS + SMALL.days * DAY_MS, closed="left").all()
    assert raw["timestamp"].is_sorted()


def test_the_log_is_cut_at_its_end(tmp_path: Path) -> None:
    generate(tmp_path / "day", replace(SMALL, days=1, sessions=3000))
    log = read_log(tmp_path / "day")
    ends = log.group_by("session_id").agg(pl.col("timestamp").max())["timestamp"]
    assert START_MS + DAY_MS - 60_000 < log["timestamp"].max() < START_MS + DAY_MS
    assert len(ends) == 3000  # a session that began inside keeps at least its first event


def test_sessions_overlap_and_are_of_ordinary_length(large: Path) -> None:
    raw = pl.read_parquet(large / "events" / "part-00000.parquet")
    assert (raw["session_id"].diff().drop_nulls() < 0).any()
    length = read_log(large).group_by("session_id").len()["len"]
    assert length.min() == 1
    assert length.max() <= 40
    assert 5 < length.mean() < 7


def test_parts_hold_every_session_once_and_follow_one_another(large: Path) -> None:
    parts = [pl.read_parquet(part) for part in sorted((large / "events").iterdir())]
    assert [part["session_id"].n_unique() for part in parts] == [5_000, 5_000, 2_000]
    assert pl.concat(parts)["session_id"].n_unique() == 12_000
    began = [part.group_by("session_id").agg(pl.col("timestamp").min())["timestamp"] for part in parts]
    assert began[0].max() <= began[1].min()
    assert began[1].max() <= began[2].min()


def test_no_item_comes_before_it_was_created(small: Path) -> None:
    items = pl.read_parquet(small / "items.parquet")
    log = read_log(small).join(items, on="item_id")
    assert (log["timestamp"] >= log["created_at"]).all()
    assert (log["created_at"] > START_MS).any()


def test_some_items_appear_late(large: Path) -> None:
    items = pl.read_parquet(large / "items.parquet")
    assert 0.05 < (items["created_at"] > START_MS).mean() < 0.2


def test_cart_events_refer_to_the_session(small: Path) -> None:
    for _, session in read_log(small).group_by("session_id", maintain_order=True):
        cart: set[str] = set()
        previous = ("", "")
        for item, kind in session.select("item_id", "event_type").iter_rows():
            if kind == "cart":
                assert previous == (item, "view")
                cart.add(item)
            elif kind in ("remove", "purchase"):
                assert item in cart
                cart.remove(item)
            previous = (item, kind)


def test_few_items_have_most_events(large: Path) -> None:
    counts = read_log(large)["item_id"].value_counts(sort=True)["count"]
    assert counts.head(300).sum() > 0.5 * counts.sum()
    assert len(counts) > 2500  # and yet the tail is alive


def test_popularity_moves_with_time(large: Path) -> None:
    log = read_log(large)
    middle = START_MS + 30 * DAY_MS
    early = log.filter(pl.col("timestamp") < middle)["item_id"].value_counts()
    late = log.filter(pl.col("timestamp") >= middle)["item_id"].value_counts()
    both = early.join(late, on="item_id", how="full", coalesce=True).fill_null(0)
    total = both["count"] + both["count_right"]
    # Were popularity fixed, each half would be within about four binomial standard deviations of the other.
    deviation = (both["count"] - both["count_right"]).abs() / total.sqrt()
    assert (deviation > 6).sum() > 20


def test_same_seed_same_bytes_other_seed_other_log(small: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", SMALL)
    names = sorted(path.relative_to(small) for path in small.rglob("*.parquet"))
    assert [name.as_posix() for name in names] == [
        "events/part-00000.parquet",
        "items.parquet",
        "oracle.parquet",
    ]
    for name in names:
        assert (small / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    generate(tmp_path / "other", replace(SMALL, seed=4))
    assert not read_log(small).equals(read_log(tmp_path / "other"))


# The truth


class FixedUniform:
    """Stands in for a generator whose uniform numbers are all the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value)


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, [1, 2, 4]), (1 - 2**-53, [2, 2, 4])])
def test_a_draw_stays_in_its_range_and_on_items_with_mass(uniform: float, expected: list[int]) -> None:
    prefix = np.array([0.0, 0.0, 1.0, 1.5, 1.5, 2.5])  # the items' masses: 0, 1, 0.5, 0, 1
    begin, end = np.array([0, 2, 3]), np.array([3, 4, 5])
    drawn = synthetic._draw_in_range(prefix, begin, end, FixedUniform(uniform))
    assert drawn.tolist() == expected


def test_probabilities_are_the_stated_sum() -> None:
    world = build_world(SMALL)
    state, _, _ = synthetic.simulate(world, 0, 200, 0)
    state = later_events(state)
    probabilities = synthetic.next_item_probabilities(world, state)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (state.basket >= 0).any()
    assert (world.created[world.successors[state.items[state.begin + state.count - 1]]] > 0).any()
    for b in range(0, len(probabilities), 5):
        np.testing.assert_allclose(probabilities[b], naive_probabilities(world, state, b), rtol=1e-9, atol=1e-15)


def test_step_draws_from_the_stated_distribution() -> None:
    world = build_world(SMALL)
    state, _, _ = synthetic.simulate(world, 0, 200, 0)
    state = later_events(state)
    last_kind = state.kinds[state.begin + state.count - 1]
    chosen = [np.flatnonzero(last_kind == kind)[0] for kind in range(4)]  # after a view, cart, remove, purchase
    chosen += [int(np.argmax(state.count)), int(np.argmax((state.basket >= 0) & (last_kind == 0)))]
    rng, draws = np.random.default_rng(0), 60_000
    for b in chosen:
        many = state.take(np.full(draws, b))
        item, kind, intent, basket = synthetic.step(world, many, rng)
        assert_frequencies(np.bincount(item, minlength=SMALL.items), np.array(naive_probabilities(world, state, b)))

        stays = np.zeros(len(world.node_begin))
        stays[state.intent[b]] = synthetic.INTENT_STAYS
        np.add.at(stays, world.taste[state.user[b]], (1 - synthetic.INTENT_STAYS) * synthetic.TASTE_WEIGHTS)
        assert_frequencies(np.bincount(intent, minlength=len(stays)), stays)

        held, current = int(state.basket[b]), int(state.items[state.begin[b] + state.count[b] - 1])
        rates = np.array([0.0, synthetic.CART, synthetic.REMOVE, synthetic.PURCHASE])
        rates *= [0, last_kind[b] == 0, held >= 0, held >= 0]
        rates[0] = 1 - rates.sum()
        assert_frequencies(np.bincount(kind, minlength=4), rates)
        after = np.array([held, current, -1, -1])[kind]
        np.testing.assert_array_equal(basket, after)


def test_the_log_is_calibrated_against_the_stated_distribution() -> None:
    """Over a whole simulation the surprise is the entropy, and the top 20 hit as often as they claim.

    This sees what a test of single steps cannot: a state kept for the wrong event, a stale period or basket.
    """
    world = build_world(SMALL)
    state, _, _ = synthetic.simulate(world, 0, 900, 0)
    rows = np.flatnonzero(state.count > 0)
    probabilities = synthetic.next_item_probabilities(world, state.take(rows))
    own = probabilities[np.arange(len(rows)), state.items[rows]]
    logs = np.log(np.maximum(probabilities, 1e-300))
    entropy = -(probabilities * logs).sum(axis=1)
    variance = (probabilities * logs**2).sum(axis=1) - entropy**2
    assert abs(np.sum(-np.log(own) - entropy)) < 4 * math.sqrt(variance.sum())

    claim = np.sort(probabilities, axis=1)[:, -20:].sum(axis=1)
    hits = (probabilities > own[:, None]).sum(axis=1) < 20
    assert abs(np.sum(hits - claim)) < 4 * math.sqrt(np.sum(claim * (1 - claim)))


def test_first_events_come_from_the_taste() -> None:
    world = build_world(replace(SMALL, users=1, days=1))
    state, _, _ = synthetic.simulate(replace_market(world, sessions=40_000), 0, 40_000, 0)
    first = np.flatnonzero(state.count == 0)
    assert (state.kinds[first] == 0).all()
    expected = np.zeros(SMALL.items)
    for node, weight in zip(world.taste[0], synthetic.TASTE_WEIGHTS, strict=True):
        inside = (world.nodes == node).any(axis=0)
        expected[inside] += weight * world.popularity[0, inside] / world.popularity[0, inside].sum()
    assert_frequencies(np.bincount(state.items[first], minlength=SMALL.items), expected)


def replace_market(world: World, sessions: int) -> World:
    return replace(world, market=replace(world.market, sessions=sessions))


def test_oracle_ranks_agree_with_a_naive_loop(small: Path) -> None:
    world = build_world(SMALL)
    state, session, time = synthetic.simulate(world, 0, SMALL.sessions, 0)
    where = {(int(s), int(t)): row for row, (s, t) in enumerate(zip(session, time, strict=True))}
    for row in pl.read_parquet(small / "oracle.parquet").gather_every(6).iter_rows(named=True):
        event = where[row["session_id"], row["timestamp"]]
        probabilities = naive_probabilities(world, state, event)
        own = probabilities[state.items[event]]
        assert row["item_id"] == f"sku-{world.number[state.items[event]]:05d}"
        # The naive sum is rounded in another order, so equal means equal up to rounding.
        assert row["better"] == sum(p > own * (1 + 1e-9) for p in probabilities)
        assert row["tied"] == sum(abs(p - own) <= own * 1e-9 for p in probabilities)


def test_ranks_count_ties_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "ORACLE_CELLS", 70_000)
    world = build_world(Marketplace(items=800, sessions=400))
    state, _, _ = synthetic.simulate(world, 0, 400, 0)
    rows = np.flatnonzero(state.count > 0)
    better, tied = synthetic.rank_in_truth(world, state.take(rows), state.items[rows])
    probabilities = synthetic.next_item_probabilities(world, state.take(rows))
    for row, item in enumerate(state.items[rows]):
        assert better[row] == np.sum(probabilities[row] > probabilities[row, item])
        assert tied[row] == np.sum(probabilities[row] == probabilities[row, item])
    assert len(rows) > 70  # more than one chunk of 70 rows
    assert tied.max() > 1


def test_oracle_covers_the_sessions_that_end_in_the_last_part(small: Path) -> None:
    oracle = pl.read_parquet(small / "oracle.parquet")
    expected = (
        read_log(small)
        .with_columns(
            ended=pl.col("timestamp").max().over("session_id"),
            position=pl.int_range(pl.len()).over("session_id"),
        )
        .filter(pl.col("position") >= 1, pl.col("ended") >= START_MS + 28 * DAY_MS)
        .select("session_id", "timestamp", "item_id")
    )
    assert oracle.select(expected.columns).sort("session_id", "timestamp").equals(expected)
    assert oracle["tied"].min() >= 1
    assert (oracle["better"] + oracle["tied"]).max() <= SMALL.items
    assert oracle["better"].dtype == pl.Int64


def test_the_oracle_is_far_above_popularity_and_below_certainty(tmp_path: Path) -> None:
    generate(tmp_path / "market", Marketplace(sessions=4000))
    better, tied = pl.read_parquet(tmp_path / "market" / "oracle.parquet").select("better", "tied")
    recall = ((20 - better) / tied).clip(0, 1).mean()
    assert 0.45 < recall < 0.75
    counts = read_log(tmp_path / "market")["item_id"].value_counts(sort=True)["count"]
    assert counts.head(20).sum() / counts.sum() < 0.15


# Sizes and refusals


@pytest.mark.parametrize(
    "market",
    [
        Marketplace(items=2, users=1, sessions=1, days=1),
        Marketplace(items=2, users=1, sessions=300, days=90),
        Marketplace(items=3, users=2, sessions=50, days=3),
        Marketplace(items=40, users=1, sessions=200, days=1),
        Marketplace(items=19, users=500, sessions=200, days=45),
    ],
)
def test_tiny_markets(market: Marketplace, tmp_path: Path) -> None:
    generate(tmp_path / "market", market, sessions_per_part=70)
    log = read_log(tmp_path / "market")
    assert log["session_id"].n_unique() == market.sessions
    assert pl.read_parquet(tmp_path / "market" / "items.parquet").height == market.items
    assert set(pl.read_parquet_schema(tmp_path / "market" / "oracle.parquet")) == {
        "session_id",
        "timestamp",
        "item_id",
        "better",
        "tied",
    }


def test_a_user_has_one_price_band() -> None:
    world = build_world(Marketplace())
    category, band, brand = world.taste.reshape(8000, 4, 3).transpose(2, 0, 1)
    for node in (band, brand):
        np.testing.assert_array_equal(world.nodes[0, world.node_begin[node]], category)
    np.testing.assert_array_equal(world.nodes[1, world.node_begin[brand]], band)
    categories = world.nodes[0, -1] + 1
    assert world.nodes[1, -1] + 1 == 4 * categories  # every category has all three bands: they count up by three
    assert ((band - categories) % 3 == (band[:, :1] - categories) % 3).all()


@pytest.mark.parametrize("seed", range(10))
def test_sparse_trees_have_no_empty_node(seed: int) -> None:
    """With few items some brands, bands and categories do not exist; all others can always be drawn from."""
    world = build_world(Marketplace(items=30, users=20, seed=seed))
    for node in range(len(world.node_begin)):
        inside = (world.nodes == node).any(axis=0)
        span = np.arange(world.node_begin[node], world.node_end[node])
        np.testing.assert_array_equal(np.flatnonzero(inside), span)
        assert (world.popularity[:, inside].sum(axis=1) > 0).all()


def test_without_oracle_there_is_no_oracle_file(large: Path) -> None:
    assert not (large / "oracle.parquet").exists()


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("items", 1, 2),
        ("users", 0, 1),
        ("sessions", 0, 1),
        ("days", -1, 1),
        ("seed", -1, 0),
        ("items", 1e6, 2),
    ],
)
def test_impossible_settings_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected a whole number >= {least}: set {name}"):
        Marketplace(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("mean_length", 0.5), ("repeat_share", -0.1), ("repeat_share", 0.7)])
def test_impossible_shares_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}; expected a number from"):
        Marketplace(**{name: value})


def test_longer_and_more_repetitive_sessions_can_be_had() -> None:
    """Repeats are those of the views that the share asks for, and those of carts, purchases and chance."""
    counted = {}
    for share in (0.0, 0.5):
        world = build_world(Marketplace(items=3000, sessions=2000, mean_length=20.0, repeat_share=share))
        state, session, _ = synthetic.simulate(world, 0, 2000, 0)
        counts = np.bincount(session)
        assert counts.mean() == pytest.approx(20, rel=0.1) and 100 < counts.max() <= 126
        views = np.flatnonzero((state.count > 0) & (state.kinds == 0))[::7].tolist()
        counted[share] = np.mean([state.items[b] in state.items[state.begin[b] : b] for b in views])
    assert counted[0.0] < 0.3 and 0.5 < counted[0.5] < 0.75


def test_a_part_must_hold_a_session(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sessions_per_part is 0"):
        generate(tmp_path / "market", SMALL, sessions_per_part=0)


def test_an_existing_log_is_not_mixed_with_another(small: Path) -> None:
    with pytest.raises(ValueError, match="already holds events"):
        generate(small, SMALL)
