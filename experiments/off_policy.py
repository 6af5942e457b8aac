"""Does `twotower experiment estimate` bracket the truth? One bundle's lists are logged, another one's are estimated.

    python experiments/off_policy.py OLD_BUNDLE NEW_BUNDLE OUT [SEED]

Both bundles are of one marketplace of the settings below. A visitor whose session is in a known state clicks an item v
at place p with probability (1 - exp(-SCALE * P(next item is v | state))) / (1 + SLOPE * p): a list's value is known.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from twotower.commands.main import main
from twotower.data.synthetic import Marketplace, build_world, next_item_probabilities, simulate
from twotower.serving.impressions import ImpressionLog
from twotower.serving.retriever import Retriever

MARKET = Marketplace(items=1500, users=1500, sessions=6000, days=40)
REQUESTS, K, EXPLORATION, SCALE, SLOPE, DAY = 5000, 10, 0.3, 10.0, 0.15, 86_400_000


def run(old_path: str, new_path: str, out: Path, seed: int) -> None:
    """Write the log and the clicks into `out`, print the truth and the command's estimates."""
    random, world = np.random.default_rng(seed), build_world(MARKET)
    before, session, time = simulate(world, 0, MARKET.sessions, 0)
    ids = np.array([f"sku-{number:05d}" for number in world.number])
    column = {item: place for place, item in enumerate(ids.tolist())}
    rows = np.sort(random.choice(np.flatnonzero(before.count > 0), REQUESTS, replace=False))
    state = before.take(rows)
    histories = [ids[before.items[b : b + n]].tolist() for b, n in zip(state.begin, state.count, strict=True)]
    chance = 1 - np.exp(-SCALE * next_item_probabilities(world, state))  # [N, V]
    effects = 1 / (1 + SLOPE * np.arange(K))
    old, new = Retriever.load(old_path), Retriever.load(new_path)
    clicks = []
    with ImpressionLog(out / "impressions", old.bundle) as log:
        for row, (number, at) in enumerate(zip(session[rows].tolist(), time[rows].tolist(), strict=True)):
            result = old.recommend(histories[row : row + 1], K, exploration=EXPLORATION, seed=seed * REQUESTS + row)
            log.write(f"s{number}", histories[row], result, timestamp=at)
            shown = [column[str(item)] for item in result.ids[0]]
            clicked = np.flatnonzero(random.random(K) < chance[row, shown] * effects)
            clicks += [(f"s{number}", ids[shown[place]], at + 1) for place in clicked]
    clicks.append(("nobody", ids[0], int(time.max()) + DAY))  # the log goes on until all hours are over
    pl.DataFrame(clicks, schema=["session_id", "item_id", "timestamp"], orient="row").write_parquet(
        out / "clicks.parquet"
    )
    for name, retriever in (("plain", old), ("new", new)):
        lists = [[column[str(item)] for item in found] for found in retriever.recommend(histories, K).ids]
        value = (np.take_along_axis(chance, np.array(lists), axis=1) * effects).sum(axis=1).mean()
        print(f"true value of {name}: {value:.4f}")
    command = ["experiment", "estimate", new_path, str(out / "impressions"), str(out / "clicks.parquet")]
    main([*command, "--key", "session_id", "--hours", "0.0001"])


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
