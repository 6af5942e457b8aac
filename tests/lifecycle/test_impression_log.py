"""Reading impressions and joining outcomes, against a loop over all pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from made_log import HOUR, NOON, write_events, write_log

from twotower.core.errors import UserError
from twotower.lifecycle.impression_log import complete, read_impressions, read_outcome_events, shown_items


def test_files_are_one_log_in_the_order_of_time(tmp_path: Path) -> None:
    write_log(tmp_path, [{"item_ids": ["a"], "timestamp": NOON + 5}, {"item_ids": ["b"], "timestamp": NOON}])
    write_log(tmp_path, [{"item_ids": ["c"], "timestamp": NOON + 2}])
    log = read_impressions(tmp_path)
    assert log["item_ids"].to_list() == [["b"], ["c"], ["a"]]
    assert log["impression"].to_list() == [0, 1, 2]
    assert read_impressions(tmp_path / "1.parquet").height == 1


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no impressions"):
        read_impressions(tmp_path)
    with pytest.raises(UserError, match="has no impressions"):
        read_impressions(tmp_path / "missing")
    pl.DataFrame({"user": ["u"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"no column .*propensities"):
        read_impressions(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"half a fi")
    with pytest.raises(UserError, match="can't be read"):
        read_impressions(tmp_path)
    with pytest.raises(UserError, match="no rows"):
        read_impressions(write_log(tmp_path / "empty", []))
    with pytest.raises(UserError, match="other lengths"):
        read_impressions(write_log(tmp_path / "lengths", [{"item_ids": ["a", "b"], "propensities": [0.5]}]))
    for number, wrong in enumerate((0.0, 1.5, float("nan"))):
        with pytest.raises(UserError, match="outside of"):
            read_impressions(write_log(tmp_path / str(number), [{"item_ids": ["a"], "propensities": [wrong]}]))


def test_outcomes_are_those_of_a_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "user": str(random.integers(4)),
            "item_ids": random.permutation(6)[: random.integers(0, 5)].tolist(),
            "timestamp": NOON + int(random.integers(0, 40)) * HOUR // 2,
        }
        for _ in range(60)
    ]
    happened = [
        (int(random.integers(4)), int(random.integers(6)), random.integers(0, 60) / 2 + 0.1, "buy") for _ in range(150)
    ]
    price = random.integers(1, 9, 150).astype(float)
    log = read_impressions(write_log(tmp_path / "log", rows, pa.int64()))
    path = write_events(tmp_path / "events.parquet", happened, price=price)
    events = read_outcome_events(path, "user_id", ["buy"], "price").events
    shown = shown_items(log, events, hours=3)
    expected: dict[tuple[int, int], list[float]] = {}
    lists = log.select("impression", "user", "timestamp", "item_ids").rows()
    for (user, item, hour, _), worth in zip(happened, price.tolist(), strict=True):
        time = NOON + int(hour * HOUR)
        before = [
            (at, number, items.index(item))
            for number, who, at, items in lists
            if who == str(user) and item in items and at <= time <= at + 3 * HOUR
        ]
        if before:
            expected.setdefault(max(before)[1:], []).append(worth)
    assert len(expected) > 10
    assert shown.height == sum(len(row["item_ids"]) for row in rows)
    for impression, place, count, value in shown.select("impression", "place", "count", "value").iter_rows():
        found = expected.get((impression, place), [])
        assert (count, value) == (len(found), pytest.approx(sum(found)))
    assert shown["teams"].unique().to_list() == [-1]


def test_ids_of_log_and_events_are_compared_as_texts(tmp_path: Path) -> None:
    log = read_impressions(write_log(tmp_path / "log", [{"item_ids": ["12", "ü"], "user": "7.0", "teams": [1, 0]}]))
    path = write_events(tmp_path / "events.parquet", [(7, 12.0, 1, "buy")])
    shown = shown_items(log, read_outcome_events(path, "user_id").events, hours=2)
    assert shown["count"].to_list() == [1, 0] and shown["teams"].to_list() == [1, 0]


def test_only_impressions_whose_hours_are_over_count(tmp_path: Path) -> None:
    rows = [{"item_ids": ["a"], "timestamp": NOON + hour * HOUR} for hour in (0, 1, 2)]
    log = read_impressions(write_log(tmp_path / "log", rows))
    path = write_events(tmp_path / "e.parquet", [("u", "a", 1, "buy"), ("v", "b", 3, "view")])
    events, end = read_outcome_events(path, "user_id", ["buy"])
    assert events.height == 1 and end == NOON + 3 * HOUR  # who only looked on tells that time has passed, too
    assert complete(log, end, 2)["impression"].to_list() == [0, 1]
    with pytest.raises(UserError, match="no impression's"):
        complete(log, end, 4)
    with pytest.raises(UserError, match="no impression's"):
        complete(log, None, 1)


def test_columns_and_types_that_are_missing_are_named(tmp_path: Path) -> None:
    path = write_events(tmp_path / "e.parquet", [("u", "a", 3, "buy"), ("u", "a", 3, "view")])
    assert read_outcome_events(path, "user_id", ["view"]).events.height == 1
    with pytest.raises(UserError, match=r"no event of type sale; its types: .*buy"):
        read_outcome_events(path, "user_id", ["sale"])
    wrong: list[dict[str, Any]] = [{"key": "customer"}, {"key": "user_id", "value": "price"}]
    for arguments in wrong:
        with pytest.raises(UserError, match=r"customer|price"):
            read_outcome_events(path, **arguments)
