"""Another bundle's lists for logged requests are those that it gives to the same requests, one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_log import HOUR, NOON, write_events, write_log

from twotower.core.errors import UserError
from twotower.lifecycle.impression_log import read_outcome_events
from twotower.lifecycle.replay import coded, replay
from twotower.serving.impressions import ImpressionLog
from twotower.serving.retriever import Retriever


@pytest.mark.parametrize("ids", [list(range(1, 61)), [f"ü-{number}" for number in range(60)]], ids=["ints", "texts"])
def test_lists_are_those_of_the_same_requests(ids: list[Any], make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    old, new = (Retriever.load(make_bundle(ids, seed=seed)) for seed in (0, 1))
    random = np.random.default_rng(0)
    asked: list[dict[str, Any]] = [{}, {"exclude_seen": True}, {"include": ids[:30]}]
    expected, outcomes, events = [], [], []
    with ImpressionLog(tmp_path / "log", old.bundle) as log:
        for number in range(30):
            history = [ids[place] for place in random.integers(0, 60, random.integers(0, 4))]
            parameters = asked[number % 3]
            k = 3 + number % 2
            result = old.recommend([history], k, exploration=0.5, seed=number, **parameters)
            log.write(f"u{number}", history, result, parameters=parameters, timestamp=NOON + number * HOUR)
            expected.append(new.recommend([history], k, **parameters).ids[0])
            bought = result.ids[0][number % 3]
            outcomes.append([item == bought for item in result.ids[0]])
            events += [(f"u{number}", bought, number + 0.5, "buy")] * 2  # twice is one outcome
        log.write("interleaved", [], old.recommend([[]], 2), teams=[0, 1], timestamp=NOON)
        log.write("late", [], old.recommend([[]], 2), timestamp=NOON + 100 * HOUR)
    path = write_events(tmp_path / "e.parquet", [*events, ("x", ids[0], 32.0, "buy")], price=[2.5] * 61)
    logged, lists = replay(new, tmp_path / "log", read_outcome_events(path, "user_id"), 2, by_value=False)
    assert len(logged.user) == len(lists) == len(set(logged.user.tolist())) == 30
    assert logged.outcome.tolist() == [float(hit) for row in outcomes for hit in row]
    assert logged.place.tolist() == [place for row in outcomes for place in range(len(row))]
    code = {text: number for number, text in enumerate(sorted(map(str, ids)))}
    order = {c: rank for rank, c in enumerate(sorted({int(c) for c in [*logged.item, *lists[lists >= 0]]}))}
    used = sorted({str(item) for row in expected for item in row} | {str(e[1]) for e in events})
    assert set(used) <= set(code) and len(order) <= 60
    names = {int(c): [] for c in lists[lists >= 0]}
    for row, wanted in zip(lists, expected, strict=True):
        assert (row >= 0).sum() == len(wanted)
        for c, item in zip(row.tolist(), wanted, strict=False):
            names[c].append(item)
    assert all(len(set(items)) == 1 for items in names.values())  # one code, one item
    assert len({items[0] for items in names.values()}) == len(names)
    worth, _ = replay(new, tmp_path / "log", read_outcome_events(path, "user_id", (), "price"), 2, by_value=True)
    np.testing.assert_array_equal(worth.outcome, 5 * logged.outcome)


def test_shown_items_and_lists_share_codes() -> None:
    shown, lists = coded(np.array(["b", "a", "z"]), [["a", "q"], [], ["b"]])
    assert shown[0] == lists[2, 0] and shown[1] == lists[0, 0] and lists[1].tolist() == [-1, -1]
    assert len({*shown.tolist(), int(lists[0, 1])}) == 4
    assert coded(np.array(["a"]), [[]])[1].tolist() == [[-1]]


def test_only_interleaved_lists_are_nothing_to_replay(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", [{"item_ids": ["a"], "teams": [1]}])
    events = read_outcome_events(write_events(tmp_path / "e.parquet", [("u", "a", 30, "buy")]), "user_id")
    with pytest.raises(UserError, match="no impression's"):
        replay(Retriever.load(make_bundle(["a", "b"])), log, events, 1, by_value=False)


def test_parameters_that_recommend_does_not_have_are_named(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", [{"item_ids": ["a"], "request": '{"history": ["a"], "colour": 1}'}])
    events = read_outcome_events(write_events(tmp_path / "e.parquet", [("u", "a", 30, "buy")]), "user_id")
    with pytest.raises(UserError, match="colour"):
        replay(Retriever.load(make_bundle(["a", "b"])), log, events, 1, by_value=False)
