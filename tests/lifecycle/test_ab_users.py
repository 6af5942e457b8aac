"""Users of an A/B test, against a loop over users and events."""

from pathlib import Path

import numpy as np
import pytest
from made_log import HOUR, NOON, write_events, write_log

from twotower.core.errors import UserError
from twotower.lifecycle.ab_users import ab_users
from twotower.lifecycle.impression_log import read_impressions, read_outcome_events


def test_users_are_those_of_a_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "user": f"u{number % 40}",
            "bucket": ("", "old", "new")[number % 40 % 3] if number != 41 else "old",  # user 1, once in "new"
            "item_ids": ["a"],
            "timestamp": NOON + int(random.integers(0, 100)) * HOUR,
        }
        for number in range(120)
    ]
    rows[1]["bucket"] = "new"
    happened = [(f"u{random.integers(45)}", "x", float(random.integers(-50, 90)) + 0.5, "buy") for _ in range(400)]
    price = random.integers(1, 9, 400).astype(float)
    log = read_impressions(write_log(tmp_path / "log", rows))
    path = write_events(tmp_path / "e.parquet", happened, price=price)
    found = ab_users(log, read_outcome_events(path, "user_id", (), "price"), 24, ["old", "new"])
    end = max(hour for _, _, hour, _ in happened)
    expected, assigned, several = [], {"old": 0, "new": 0}, 0
    for user in sorted({str(row["user"]) for row in rows}):
        mine = [row for row in rows if row["user"] == user and row["bucket"]]
        buckets = {str(row["bucket"]) for row in mine}
        several += len(buckets) > 1
        if len(buckets) != 1:
            continue
        (bucket,) = buckets
        assigned[bucket] += 1
        first = min((int(str(row["timestamp"])) - NOON) / HOUR for row in mine)
        if first + 24 <= end:
            worth = [(h - first, w) for (who, _, h, _), w in zip(happened, price, strict=True) if who == user]
            inside = [w for after, w in worth if 0 <= after <= 24]
            expected.append((bucket, float(bool(inside)), sum(inside), sum(w for after, w in worth if after < 0)))
    columns = found.bucket.tolist(), found.conversion.tolist(), found.value.tolist(), found.before.tolist()
    assert sorted(zip(*columns, strict=True)) == sorted(expected)
    assert (found.assigned, found.in_several) == (assigned, several) and several == 1
    assert 0 < found.conversion.mean() < 1 and len(found.bucket) < sum(assigned.values())


def test_buckets_are_those_of_the_log(tmp_path: Path) -> None:
    log = read_impressions(write_log(tmp_path / "log", [{"item_ids": ["a"], "bucket": "neu"}]))
    outcomes = read_outcome_events(write_events(tmp_path / "e.parquet", [("u", "a", 30, "buy")]), "user_id")
    with pytest.raises(UserError, match=r"the buckets neu; expected old, new"):
        ab_users(log, outcomes, 24, ["old", "new"])
    with pytest.raises(UserError, match=r"\(none\)"):
        ab_users(log.with_columns(bucket=log["user"].str.slice(9)), outcomes, 24, ["old", "new"])
    assert len(ab_users(log, outcomes._replace(end=None), 24, ["neu", "old"]).bucket) == 0
