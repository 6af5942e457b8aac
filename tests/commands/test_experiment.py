"""`twotower experiment`: estimates before a test, its read-out, its power; from files, as a person calls it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.commands.main import main
from twotower.serving.buckets import bucket_of
from twotower.serving.impressions import ImpressionLog
from twotower.serving.retriever import Retriever
from twotower.serving.team_draft import team_draft

NOON, HOUR = 1_767_268_800_000, 3_600_000
IDS = [f"sku-{number}" for number in range(40)]
NUMBERS = re.compile(r"[-+]?\d+\.\d+")


@pytest.fixture(scope="module")
def bundles(make_bundle: Callable[..., Path]) -> list[str]:
    return [str(make_bundle(IDS, counts=list(range(40)), seed=seed)) for seed in (0, 1)]


def write_events(file: Path, rows: list[tuple[str, str, int]]) -> str:
    """Users, items and times of purchases; the last one is late, so that all hours are over."""
    rows = [*rows, ("nobody", IDS[0], NOON + 1000 * HOUR)]
    names = ("user_id", "item_id", "timestamp")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    pl.DataFrame(columns).with_columns(event_type=pl.lit("purchase"), price=pl.lit(3.0)).write_parquet(file)
    return str(file)


def numbers(output: str, row: str) -> list[float]:
    return [float(n) for n in NUMBERS.findall(next(line for line in output.splitlines() if row in line))]


def test_estimate_is_near_the_value_of_the_new_bundle(
    bundles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each item is bought by a chance of its own, at place p with .8^p of it."""
    old, new = map(Retriever.load, bundles)
    random, k = np.random.default_rng(0), 4
    chance = dict(zip(IDS, random.beta(1, 2, 40), strict=True))
    bought, values = [], []
    with ImpressionLog(tmp_path / "log", old.bundle) as log:
        for number in range(1500):
            history = [IDS[place] for place in random.integers(0, 40, 2)]
            result = old.recommend([history], k, exploration=0.4, seed=number)
            log.write(f"u{number % 700}", history, result, timestamp=NOON + number * 60_000)
            for place, item in enumerate(result.ids[0]):
                if random.random() < chance[item] * 0.8**place:
                    bought.append((f"u{number % 700}", item, NOON + number * 60_000 + 1000))
            values.append(sum(chance[item] * 0.8**p for p, item in enumerate(new.recommend([history], k).ids[0])))
    events = write_events(tmp_path / "events.parquet", bought)
    command = ["experiment", "estimate", bundles[1], str(tmp_path / "log"), events, "--types", "purchase"]
    assert main([*command, "--hours", "1"]) == 0
    output = capsys.readouterr().out
    for name in ("IPS", "SNIPS", "DR"):
        value, low, high = numbers(output, f"new, {name}")[:3]
        assert abs(value - np.mean(values)) < 2 * (high - value) and low < value  # one test in 10,000 misses
    assert "by DR, " in output and "at place 4" in output
    assert main([*command, "--hours", "1", "--value", "price"]) == 0
    assert numbers(capsys.readouterr().out, "new, IPS")[0] > 2 * numbers(output, "new, IPS")[0]
    assert main([*command, "--hours", "2000"]) == 2
    assert "--hours" in capsys.readouterr().err


def test_read_prints_differences_and_preference(
    bundles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retrievers = dict(zip(("old", "new"), map(Retriever.load, bundles), strict=True))
    shares = {"old": 0.5, "new": 0.5}
    random = np.random.default_rng(1)
    lists = {name: retriever.recommend([["sku-1"]], 4) for name, retriever in retrievers.items()}
    bought = []
    with ImpressionLog(tmp_path / "log", retrievers["old"].bundle) as log:
        for number in range(3000):
            user, time = f"u{number}", NOON + number * 1000
            bucket = bucket_of(user, "test", shares)
            log.write(user, ["sku-1"], lists[bucket], bucket=bucket, timestamp=time)
            if random.random() < (0.1 if bucket == "old" else 0.3):
                bought.append((user, lists[bucket].ids[0][0], time + HOUR))
        for number in range(300):
            user, time = f"v{number}", NOON + number * 1000
            drafted = team_draft(lists["old"].ids[0], lists["new"].ids[0], 4, random)
            log.write(user, ["sku-1"], drafted.result, teams=drafted.teams, timestamp=time)
            if random.random() < 0.5:
                bought.append((user, drafted.result.ids[0][drafted.teams.index(1)], time + HOUR))
    events = write_events(tmp_path / "events.parquet", bought)
    command = ["experiment", "read", str(tmp_path / "log"), events]
    assert main([*command, "--shares", "old=0.5", "new=0.5", "--planned-users", "4000"]) == 0
    output = capsys.readouterr().out
    old, new, difference, _, once, daily = numbers(output, "conversion")[:6]
    assert new - old == pytest.approx(difference, abs=0.01) and once < daily < difference
    assert "variance" not in output  # nobody bought before
    assert "new, conversion: better" in output and "fit their shares" in output
    assert "visitors prefer the second ranking" in output
    assert main([*command, "--shares", "old=0.8", "new=0.2", "--planned-users", "3000"]) == 0
    output = capsys.readouterr().out
    assert "error: the sizes of the buckets do not fit" in output and "better" not in output
    assert main(command) == 0
    assert "conversion" not in capsys.readouterr().out
    for wrong in (["old=0.5"], ["old", "new"], ["a=0.5", "b=x"], ["old=0.5", "neu=0.5"]):
        assert main([*command, "--shares", *wrong, "--planned-users", "3000"]) == 2
        assert "expected" in capsys.readouterr().err
    assert main([*command, "--shares", "old=0.5", "new=0.5"]) == 2
    assert "needs --planned-users" in capsys.readouterr().err


def test_power_prints_users_and_days(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "power", "--rate", "0.5", "--lift", "0.1", "--users-per-day", "100"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"one look, planned\W+3,140\W+32 ", output)  # 4 * 7.849 * .25 / .05^2
    users = re.search(r"a look each day\W+([\d,]+)", output)
    assert users and f"--planned-users {users[1].replace(',', '')}" in output
    assert main(["experiment", "power", "--mean", "10", "--deviation", "30", "--lift", "0.05"]) == 0
    assert "days" not in capsys.readouterr().out.splitlines()[1]
    for wrong in (["--rate", "3"], ["--mean", "3"], [], ["--rate", "0.1", "--mean", "3", "--deviation", "1"]):
        assert main(["experiment", "power", "--lift", "0.05", *wrong]) == 2
        assert "expected" in capsys.readouterr().err
