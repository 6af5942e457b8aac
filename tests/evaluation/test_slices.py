"""Groups of queries, by hand."""

from dataclasses import replace

import numpy as np

from twotower.evaluation.slices import (
    MOST_GROUPS,
    Grouping,
    by_age,
    by_item_age,
    by_length,
    by_popularity,
    feature_groupings,
    groupings_of,
    largest,
    query_facts,
)


def names(grouping: Grouping) -> list[str | None]:
    return [grouping.groups[code] if code >= 0 else None for code in grouping.code]


def test_head_has_half_of_the_events_and_torso_the_next_three_tenths() -> None:
    counts = np.array([0, 1, 40, 0, 20, 15, 10, 9, 5])  # of 100 events: 40, then 20, 15, 10, 9, 5, 1
    found = by_popularity(counts, np.arange(1, 9))
    assert names(found) == ["tail", "head", "cold", "head", "torso", "torso", "tail", "tail"]


def test_no_event_at_all_leaves_everything_cold() -> None:
    assert names(by_popularity(np.zeros(4, dtype=int), np.array([1, 3]))) == ["cold", "cold"]


def test_histories_by_length() -> None:
    found = by_length(np.array([1, 2, 3, 4, 5, 9, 10, 19, 20, 500]))
    three, five, ten = "3 to 4", "5 to 9", "10 to 19"
    assert names(found) == ["1", "2", three, three, five, five, ten, ten, "20 or more", "20 or more"]


def test_the_model_ages_by_the_day() -> None:
    day = 86_400_000
    found = by_age(np.array([-5, 0, day - 1, day, 9 * day, 10 * day, 99 * day]))
    assert names(found) == ["day 1", "day 1", "day 1", "day 2", "day 10", "later", "later"]


def test_items_age_from_their_first_event(make_prepared) -> None:
    prepared = make_prepared([[1, 2], [3, 1, 2, 1]], inputs={"gap": [[0, 0], [0, 0, 0, 0]]})
    day = 86_400_000
    prepared = replace(prepared, timestamp=np.array([9.0, 2, 3, 15.9, 9, 40]) * day)
    event = np.array([1, 3, 4, 5])
    target = prepared.item_index[event]
    found = by_item_age(prepared, target, np.asarray(prepared.timestamp[event]))
    # Item 1 is first seen on day 9, item 2 on day 2, in whatever order the sessions are stored.
    assert names(found) == ["up to a week ago", "up to a week ago", "up to a month ago", "longer ago"]


def test_a_features_smaller_groups_are_one() -> None:
    code = np.repeat(np.arange(MOST_GROUPS + 3), np.arange(MOST_GROUPS + 3))  # group k has k queries, group 0 none
    found = largest(Grouping("brand", [f"b{k}" for k in range(MOST_GROUPS + 3)], np.append(code, -1)))
    assert found.groups == [f"b{k}" for k in range(MOST_GROUPS + 2, 2, -1)] + ["2 others"]
    assert names(found)[:4] == ["2 others"] * 3 + ["b3"] and names(found)[-1] is None
    few = largest(Grouping("brand", ["a", "b"], np.array([1, 1, 0])))
    assert few.groups == ["b", "a"] and names(few) == ["b", "b", "a"]


def test_features_are_told_by_their_values() -> None:
    encoders = {
        "colour": {"kind": "categorical", "out_of_vocabulary": 1, "vocabulary": ["blue", "red"]},
        "price": {"kind": "numeric", "edges": [5.0, 10.5]},
        "height": {"kind": "numeric", "mean": 0.0, "deviation": 1.0},
        "tags": {"kind": "multi", "vocabulary": ["a"]},
    }
    arrays = {"colour.codes": np.array([0, 1, 2, 3]), "price.codes": np.array([0, 1, 2, 3])}
    colour, price = feature_groupings(encoders, arrays)
    assert names(colour) == [None, "unknown", "other", "blue", "red"]
    assert names(price) == [None, "unknown", "below 5", "5 to 10.5", "10.5 or more"]


def test_queries_are_looked_up_by_their_event(make_prepared) -> None:
    prepared = make_prepared(
        [[1, 2, 3], [4, 5]],
        types=[[0, 1, 0], [1, 1]],
        event_types=("view", "buy"),
        inputs={"hour": [[1, 24, 5], [7, 0]], "weekday": [[1, 7, 1], [2, 2]], "device": [[3, 0, 1], [2, 1]]},
    )
    prepared = replace(prepared, returning=np.array([2, 0], dtype=np.uint8))
    facts = query_facts(prepared, np.array([1, 2, 4]))
    assert facts.session.tolist() == [0, 0, 1]
    assert facts.length.tolist() == [1, 2, 1]
    assert facts.target.tolist() == [2, 3, 5]
    colour = Grouping("colour", ["red", "blue"], np.array([-1, 0, 0, 1, 1, 0]))
    devices = {"device": {"kind": "categorical", "out_of_vocabulary": 1, "vocabulary": ["desk", "phone"]}}
    found = {g.name: names(g) for g in groupings_of(prepared, np.ones(6, dtype=int), 0, [colour], devices, facts)}
    assert found["event type"] == ["buy", "view", "buy"]
    assert found["hour of the day"] == ["0:00", "23:00", "6:00"], "that of the history's newest event"
    assert found["weekday"] == ["Monday", "Sunday", "Tuesday"]
    assert found["colour"] == ["red", "blue", "red"]
    assert found["device"] == ["phone", "unknown", "desk"], "that of the history's newest event"
    assert found["user"] == ["returning", "returning", None]
