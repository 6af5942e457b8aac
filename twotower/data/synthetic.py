"""A generated marketplace whose next-item distribution is known exactly: for tests, demonstrations and benchmarks.

The catalogue is a tree: category > price band > brand. Items are numbered so that every node of the tree is
one contiguous range. Their popularity has a long tail, and rises, falls or stands still from period to period
(a period is a few days); an item created late has popularity zero before. A user has four favourite
categories, one price band, and one brand in each favourite: twelve nodes with fixed weights, the taste. The
latent intent of a session is one node. All events of a session use the period in which it began. Its first
event is a view of an item of its intent, by popularity; every later event is drawn like this:

1. The intent drifts: kept with probability INTENT_STAYS, else redrawn from the user's taste.
2. After a view, with probability CART, the item just viewed goes to the cart.
3. While an item lies in the cart, with probability REMOVE it is removed and with PURCHASE it is bought. Only
   the item carted last counts; after a removal or a purchase there is none.
4. What is left is a view. `repeat_share` of it: of the item at a uniformly drawn position of this session. SUCCESSOR
   of it: of one of the current item's fixed successors, by SUCCESSOR_WEIGHTS; a successor not yet created
   gives way to the next line. The rest: of an item of the intent's node, by popularity.

So P(next item | taste, intent before the drift, session so far, period) is a finite sum, which
`next_item_probabilities` writes out and `step` samples from. Ranking by it is the ceiling of every model.

Shapes: B sessions before one event, E events of a part, V items, P <= 20 periods, M nodes, S successors, U
users, T = 12 nodes of a taste. Memory: tables of 16*P*V + 8*S*V + 8*T*U bytes, about 250 bytes per event of
ONE part, 50 bytes per oracle row of ALL parts. Time: linear in the events; an oracle row costs V operations.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from twotower.core.event_codes import HOUR_MS, MS_PER_DAY

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

START_MS = 1_735_689_600_000  # the log starts 2025-01-01T00:00:00Z
KINDS = ("view", "cart", "remove", "purchase")
VIEW = 0

CART, REMOVE, PURCHASE, SUCCESSOR, INTENT_STAYS = 0.08, 0.02, 0.10, 0.38, 0.85
SUCCESSOR_WEIGHTS = 0.95 ** np.arange(24) / (0.95 ** np.arange(24)).sum()
# A taste is favourite category (rows) x [the whole category, its price band, its brand] (columns).
TASTE_WEIGHTS = np.outer([0.5, 0.25, 0.15, 0.1], [0.7, 0.15, 0.15]).ravel()
BANDS, BRANDS_PER_BAND, MAX_PERIODS, LATE_ITEMS = 3, 3, 20, 0.13
MEAN_LENGTH, GAP_MS = 6.3, 40_000.0
MAX_LENGTHS = 6.3  # the longest session, in mean lengths: 40 events by default
HOURLY_ARRIVALS = 1.0 + 0.8 * np.sin((np.arange(24) - 10) * np.pi / 12)  # quiet at 4, busy at 16
ORACLE_SPAN = 0.3  # sessions that end in this last share of the time span get oracle rows
ORACLE_CELLS = 2_000_000  # of one dense [chunk, V] matrix; about four such matrices live at once: 64 MB


@dataclass(frozen=True)
class Marketplace:
    """The settings of one marketplace; the same settings always give the same files.

    >>> build_world(Marketplace(items=100, days=20)).popularity.shape  # periods, items
    (20, 100)
    """

    items: int = 3000
    users: int = 8000
    sessions: int = 40000
    days: int = 60
    seed: int = 0
    mean_length: float = MEAN_LENGTH  # events of a session, about; the longest has MAX_LENGTHS times as many
    repeat_share: float = 0.04  # of the views, beyond those by chance

    def __post_init__(self) -> None:
        least = {"items": 2, "seed": 0}
        for name in ("items", "users", "sessions", "days", "seed"):
            _check_whole(name, getattr(self, name), least.get(name, 1))
        if not self.mean_length >= 1:
            raise ValueError(f"mean_length is {self.mean_length}; expected a number from 1 on.")
        if not 0 <= self.repeat_share <= 1 - SUCCESSOR:
            raise ValueError(f"repeat_share is {self.repeat_share}; expected a number from 0 to {1 - SUCCESSOR:g}.")


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number >= {least}: set {name} to one.")


@dataclass(frozen=True)
class World:
    """All that is fixed before the first session. Items are numbered along the tree, not as in their ids.

    >>> int(build_world(Marketplace(items=100)).number.max())
    99
    """

    market: Marketplace
    period_days: int
    nodes: Ints  # [3, V] the category, the band and the brand node of each item
    node_begin: Ints  # [M] a node is the items node_begin .. node_end - 1; brand nodes come last
    node_end: Ints  # [M]
    created: Ints  # [V] first period in which the item can be drawn
    popularity: Floats  # [P, V] rows sum to one; zero before the item was created
    prefix: Floats  # [P * V + 1] running sum of popularity over all periods
    successors: Ints  # [V, S]
    taste: Ints  # [U, T] nodes, weighted by TASTE_WEIGHTS
    activity: Floats  # [U + 1] running share of the sessions by user
    price: Floats  # [V]
    number: Ints  # [V] the number in the item's id: a permutation, so that ids tell nothing


@dataclass(frozen=True)
class State:
    """B sessions, each before an event that is not its first; b has seen items[begin[b]:][:count[b]].

    >>> world = build_world(Marketplace(items=100, sessions=50))
    >>> before, session, time = simulate(world, first=0, size=50, part=0)
    >>> bool(np.isclose(next_item_probabilities(world, before.take(np.array([1]))).sum(), 1))
    True
    """

    user: Ints  # [B]
    period: Ints  # [B]
    intent: Ints  # [B] node, before this event's drift
    basket: Ints  # [B] the item carted last and still in the cart, or -1
    begin: Ints  # [B] where the session starts in `items` and `kinds`
    count: Ints  # [B] events so far, >= 1
    items: Ints  # [E]
    kinds: Ints  # [E] positions in KINDS

    def take(self, rows: slice | Ints) -> "State":
        """Return the state of these sessions alone; `items` and `kinds` are shared, not copied."""
        names = ("user", "period", "intent", "basket", "begin", "count")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def _running(weights: Floats) -> Floats:
    return np.concatenate([[0.0], weights.ravel().cumsum()])


def _draw_in_range(prefix: Floats, begin: Ints, end: Ints, rng: np.random.Generator) -> Ints:
    """Draw positions in begin .. end - 1 by inverse CDF, elementwise; positions without mass are never drawn."""
    low, high = prefix[begin], prefix[end]
    # Rounding may lift the point onto `high`, which belongs to the next range: stay strictly below it.
    point = np.minimum(low + rng.random(low.shape) * (high - low), np.nextafter(high, -np.inf))
    return np.searchsorted(prefix, point, side="right") - 1


def _draw_slot(weights: Floats, size: int, rng: np.random.Generator) -> Ints:
    return np.searchsorted(weights.cumsum()[:-1], rng.random(size), side="right")


def build_world(market: Marketplace) -> World:
    """Build catalogue, popularity tables, successors and tastes, all from `default_rng([seed, 0])`."""
    rng, size = np.random.default_rng([market.seed, 0]), market.items
    categories = max(1, round(0.35 * size**0.5))
    leaf = np.sort(rng.integers(0, categories * BANDS * BRANDS_PER_BAND, size))  # sorted: every node is a range
    levels = (leaf // (BANDS * BRANDS_PER_BAND), leaf // BRANDS_PER_BAND, leaf)  # keys of category, band and brand
    nodes, begins, ends, total = np.empty((3, size), np.int64), [], [], 0
    for level, key in enumerate(levels):
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        nodes[level] = inverse + total
        begins.append(first)
        ends.append(np.append(first[1:], size))
        total += len(first)
    node_begin, node_end = np.concatenate(begins), np.concatenate(ends)

    base: Floats = (rng.permutation(size) + 1.0 + size / 30) ** -1.5
    period_days = -(-market.days // MAX_PERIODS)
    created, popularity = _draw_popularity(base, begins[-1], -(-market.days // period_days), rng)
    successors = _draw_successors(base, nodes, node_begin, node_end, begins[-1], rng)
    taste = _draw_tastes(base, levels, nodes, node_begin, node_end, market.users, rng)
    activity = rng.permutation((np.arange(market.users) + 1.0 + market.users / 20) ** -0.8)
    level_price = rng.lognormal(3.0, 0.6, categories)[levels[0]] * 2.0 ** (levels[1] % BANDS)
    return World(
        market=market,
        period_days=period_days,
        nodes=nodes,
        node_begin=node_begin,
        node_end=node_end,
        created=created,
        popularity=popularity,
        prefix=_running(popularity),
        successors=successors,
        taste=taste,
        activity=_running(activity / activity.sum()),
        price=np.maximum(np.round(level_price * rng.lognormal(0.0, 0.2, size), 2), 0.01),
        number=rng.permutation(size),
    )


def _draw_popularity(base: Floats, brand_first: Ints, count: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Return [V] the period in which each item is created, and [P, V] its popularity in `count` periods."""
    size, periods = len(base), np.arange(count)[:, None]
    late = rng.random(size) < LATE_ITEMS * (count > 1)
    late[brand_first] = False  # one item of every brand is there from the start, so that no node is ever empty
    created = np.where(late, rng.integers(1, max(2, count), size), 0)
    slope = rng.choice([-3.0, 0.0, 3.0], size, p=[0.15, 0.7, 0.15])
    popularity = base * np.exp(slope * (periods / count - 0.5)) * (created <= periods)
    return created, popularity / popularity.sum(axis=1, keepdims=True)


def _draw_successors(
    base: Floats, nodes: Ints, node_begin: Ints, node_end: Ints, brand_first: Ints, rng: np.random.Generator
) -> Ints:
    """Return [V, S] the successors of each item.

    3/8 of them are in its category, 3/8 in the one companion that its brand has there (an order that item features can
    carry), 2/8 in a complementary category. Damped popularity feeds the tail.
    """
    size, (category, _, brand) = len(base), nodes
    home = category[brand_first]
    partner = _draw_in_range(np.arange(size + 1.0), node_begin[home], node_end[home], rng)
    companion = brand[partner][brand - brand[0]]
    complement = (category + 1) % (category[-1] + 1)
    share = rng.random((size, len(SUCCESSOR_WEIGHTS)))
    source = np.where(share < 6 / 8, companion[:, None], complement[:, None])
    source = np.where(share < 3 / 8, category[:, None], source)
    successors = _draw_in_range(_running(base**0.65), node_begin[source], node_end[source], rng)
    itself = np.arange(size)[:, None]
    return np.where(successors == itself, (itself + 1) % size, successors)


def _draw_tastes(
    base: Floats,
    levels: tuple[Ints, Ints, Ints],
    nodes: Ints,
    node_begin: Ints,
    node_end: Ints,
    users: int,
    rng: np.random.Generator,
) -> Ints:
    """Return [U, T] the nodes of each user's taste."""
    size, (category, band, brand), (category_key, band_key, _) = len(base), nodes, levels
    mild = _running(base**0.25)  # a steeper choice of favourites would let plain popularity rank well
    favourite = _draw_in_range(mild, np.zeros((users, 4), np.int64), np.array(size), rng)
    wanted = category_key[favourite] * BANDS + rng.integers(0, BANDS, (users, 1))
    place = np.minimum(np.searchsorted(band_key, wanted), size - 1)
    place = np.where(band_key[place] == wanted, place, favourite)  # a category may lack the user's band
    chosen = _draw_in_range(mild, node_begin[band[place]], node_end[band[place]], rng)
    return np.stack([category[chosen], band[chosen], brand[chosen]], axis=-1).reshape(users, -1)


def _node_range(world: World, period: Ints, node: Ints) -> tuple[Ints, Ints]:
    """Return where the items of a node in a period begin and end in `world.prefix`; any shapes that broadcast."""
    row = period * world.market.items
    return row + world.node_begin[node], row + world.node_end[node]


def _draw_by_popularity(world: World, period: Ints, node: Ints, rng: np.random.Generator) -> Ints:
    return _draw_in_range(world.prefix, *_node_range(world, period, node), rng) % world.market.items


def _draw_intent(world: World, user: Ints, rng: np.random.Generator) -> Ints:
    return world.taste[user, _draw_slot(TASTE_WEIGHTS, len(user), rng)]


def _branches(state: State, repeats: float) -> Floats:
    """Return [6, B] probabilities of: cart, remove, purchase, repeat, successor, item of the intent."""
    cart = CART * (state.kinds[state.begin + state.count - 1] == VIEW)
    held = state.basket >= 0
    view = 1.0 - cart - (REMOVE + PURCHASE) * held
    rest = 1.0 - repeats - SUCCESSOR
    return np.stack([cart, REMOVE * held, PURCHASE * held, repeats * view, SUCCESSOR * view, rest * view])


def step(world: World, state: State, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, Ints]:
    """Draw the next events: (item, kind, intent after the drift, basket after the event), each [B]."""
    size = len(state.user)
    intent = np.where(rng.random(size) < INTENT_STAYS, state.intent, _draw_intent(world, state.user, rng))
    branch = (rng.random(size) >= _branches(state, world.market.repeat_share).cumsum(axis=0)[:-1]).sum(axis=0)
    current = state.items[state.begin + state.count - 1]
    repeated = state.items[state.begin + (rng.random(size) * state.count).astype(np.int64)]
    follower = world.successors[current, _draw_slot(SUCCESSOR_WEIGHTS, size, rng)]
    item = np.choose(branch, [current, state.basket, state.basket, repeated, follower, follower])
    fresh = np.flatnonzero((branch == 5) | ((branch == 4) & (world.created[follower] > state.period)))
    item[fresh] = _draw_by_popularity(world, state.period[fresh], intent[fresh], rng)
    kind = np.array([1, 2, 3, VIEW, VIEW, VIEW])[branch]
    basket = np.where(branch == 0, current, np.where(kind == VIEW, state.basket, -1))
    return item, kind, intent, basket


def next_item_probabilities(world: World, state: State) -> Floats:
    """Return [B, V] the exact distribution from which `step` draws the item; rows sum to one."""
    row = np.arange(len(state.user))
    cart, remove, purchase, repeat, successor, fresh = _branches(state, world.market.repeat_share)
    current = state.items[state.begin + state.count - 1]
    followers = world.successors[current]
    exists = world.created[followers] <= state.period[:, None]
    fresh = fresh + successor * (~exists @ SUCCESSOR_WEIGHTS)

    # A node gives each of its items popularity * weight / mass: weight / mass is summed along the tree first.
    choices = np.column_stack([state.intent, world.taste[state.user]])  # [B, 1 + T]
    low, high = _node_range(world, state.period[:, None], choices)
    weights = np.append(INTENT_STAYS, (1.0 - INTENT_STAYS) * TASTE_WEIGHTS)
    density = np.zeros((len(row), len(world.node_begin)))
    np.add.at(density, (row[:, None], choices), weights / (world.prefix[high] - world.prefix[low]))
    first_brand = world.nodes[2, 0]
    category, band, brand = world.nodes[:, world.node_begin[first_brand:]]
    by_brand = (density[:, category] + density[:, band] + density[:, brand]) * fresh[:, None]
    result: Floats = by_brand[:, world.nodes[2] - first_brand]
    result *= world.popularity[state.period]

    np.add.at(result, (row[:, None], followers), successor[:, None] * SUCCESSOR_WEIGHTS * exists)
    seen_row = np.repeat(row, state.count)
    position = np.arange(len(seen_row)) - np.repeat(state.count.cumsum() - state.count, state.count)
    np.add.at(result, (seen_row, state.items[state.begin[seen_row] + position]), (repeat / state.count)[seen_row])
    result[row, current] += cart
    result[row, state.basket] += remove + purchase  # both are zero where the basket is -1
    return result


def rank_in_truth(world: World, state: State, item: Ints) -> tuple[Ints, Ints]:
    """Return [B] how many items are more probable than `item`, and [B] how many are as probable, itself included."""
    better, tied = np.empty(len(item), np.int64), np.empty(len(item), np.int64)
    chunk = max(1, ORACLE_CELLS // max(1000, world.market.items))
    for low in range(0, len(item), chunk):
        rows = slice(low, low + chunk)
        probabilities = next_item_probabilities(world, state.take(rows))
        probability = np.take_along_axis(probabilities, item[rows, None], axis=1)
        better[rows] = np.count_nonzero(probabilities > probability, axis=1)
        tied[rows] = np.count_nonzero(probabilities == probability, axis=1)
    return better, tied


def simulate(world: World, first: int, size: int, part: int) -> tuple[State, Ints, Ints]:
    """Draw sessions first .. first + size - 1 as one part.

    Returns the state before each event (B = E; count 0: a first event), session ids [E] and times [E] in ms.
    """
    market, rng = world.market, np.random.default_rng([world.market.seed, part + 1])
    # Parts follow one another in time: each takes its own slice of the arrivals' distribution.
    arrival = (first + np.sort(rng.random(size)) * size) / market.sessions
    rhythm = _running(np.tile(HOURLY_ARRIVALS, market.days))
    hours = np.interp(arrival, rhythm / rhythm[-1], np.arange(len(rhythm)))
    end = START_MS + market.days * MS_PER_DAY
    start = np.minimum(START_MS + (hours * HOUR_MS).astype(np.int64), end - 1)
    period = (start - START_MS) // (world.period_days * MS_PER_DAY)
    user = np.searchsorted(world.activity[1:-1], rng.random(size), side="right")
    longest = round(market.mean_length * MAX_LENGTHS)
    length = np.minimum(rng.geometric(1 / market.mean_length, size), longest)

    session = np.repeat(np.arange(size), length)
    elapsed = np.maximum(rng.lognormal(np.log(GAP_MS), 1.0, len(session)), 1).astype(np.int64).cumsum()
    time = start[session] + elapsed - elapsed[length.cumsum() - length][session]
    inside = time < end  # the log is cut at its end; the first event of a session is always inside
    session, time = session[inside], time[inside]
    length = np.bincount(session, minlength=size)
    begin, total = length.cumsum() - length, len(session)

    items, kinds, intents = np.empty(total, np.int64), np.full(total, VIEW), np.empty(total, np.int64)
    baskets, basket, active = np.full(total, -1), np.full(size, -1), np.arange(size)
    intent = _draw_intent(world, user, rng)
    intents[begin], items[begin] = intent, _draw_by_popularity(world, period, intent, rng)
    # The arrays inside `now` are updated in place from event to event.
    now = State(user, period, intent, basket, begin, np.zeros(size, np.int64), items, kinds)
    for count in range(1, int(length.max())):
        now.count[:] = count
        active = active[length[active] > count]
        at = begin[active] + count
        intents[at], baskets[at] = intent[active], basket[active]
        items[at], kinds[at], intent[active], basket[active] = step(world, now.take(active), rng)
    position = np.arange(total) - begin[session]
    before = State(user[session], period[session], intents, baskets, begin[session], position, items, kinds)
    return before, session + first, time


def generate(out: Path, market: Marketplace, *, oracle: bool = True, sessions_per_part: int = 160_000) -> None:
    """Write events/part-*.parquet (by time), items.parquet and, with `oracle`, oracle.parquet into `out`."""
    _check_whole("sessions_per_part", sessions_per_part, 1)
    if (out / "events").exists():
        raise ValueError(f"{out} already holds events; expected a new folder: remove it or name another.")
    (out / "events").mkdir(parents=True)
    world = build_world(market)
    width = max(5, len(str(market.items - 1)))
    item_id = pl.Series("item_id", [f"sku-{number:0{width}d}" for number in world.number])
    catalogue = {
        "item_id": item_id,
        "category": [f"category-{node:03d}" for node in world.nodes[0]],
        "brand": [f"brand-{node:04d}" for node in world.nodes[2] - world.nodes[2, 0]],
        "price": world.price,
        "created_at": START_MS + world.created * world.period_days * MS_PER_DAY,
    }
    pl.DataFrame(catalogue).sort("item_id").write_parquet(out / "items.parquet")

    event_type, truths = pl.Series("event_type", KINDS), []
    oracle_from = START_MS + market.days * MS_PER_DAY * (1 - ORACLE_SPAN)
    firsts = range(0, market.sessions, sessions_per_part)
    for part, first in enumerate(tqdm(firsts, "generating events", unit="part", disable=len(firsts) == 1)):
        before, session, time = simulate(world, first, min(sessions_per_part, market.sessions - first), part)
        keys = pl.DataFrame({"session_id": session, "user_id": before.user})
        log = keys.with_columns(item_id.gather(before.items), pl.Series("timestamp", time))
        by_time = np.argsort(time, kind="stable")
        events = log.with_columns(event_type.gather(before.kinds))[by_time]
        events.write_parquet(out / "events" / f"part-{part:05d}.parquet")
        if oracle:
            last = np.searchsorted(session, session, side="right") - 1
            rows = np.flatnonzero((before.count > 0) & (time[last] >= oracle_from))
            better, tied = rank_in_truth(world, before.take(rows), before.items[rows])
            ranks = pl.Series("better", better), pl.Series("tied", tied)
            truths.append(log[rows].select("session_id", "timestamp", "item_id").with_columns(*ranks))
    if oracle:
        pl.concat(truths).write_parquet(out / "oracle.parquet")
