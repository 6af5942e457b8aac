"""Features of events: from their own columns, and from tables as of the event's time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.event_features import FEATURE, EventFeatures
from twotower.data.readers.source import Source

CATEGORICAL = {"kind": "categorical"}


def source(columns: Sequence[str], items: pl.DataFrame | None = None, users: pl.DataFrame | None = None) -> Source:
    def chunks(_: Sequence[str]) -> Iterator[pl.DataFrame]:
        raise AssertionError("nothing is read here")

    return Source(
        "a", [Path("a")], {}, ["item_id", "timestamp", *columns], 1, "ms", chunks,
        items=None if items is None else items.lazy,
        users=None if users is None else users.lazy,
    )  # fmt: skip


def final(specs: dict[str, Any], src: Source, *chunks: pl.DataFrame) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """What each event's codes mean, by the encoder's vocabulary; and the encoders."""
    features = EventFeatures(specs, src)
    codes = [features.encode(chunk) for chunk in chunks]
    luts = features.rank_values()
    ranks = {name: np.concatenate([lut[c[name].to_numpy()] for c in codes]) for name, lut in luts.items()}
    counts = {name: np.bincount(ranks[FEATURE + name], minlength=luts[FEATURE + name].max() + 1) for name in specs}
    encoders = features.fit(counts)
    found = {name: features.codes(name, ranks[FEATURE + name]).tolist() for name in specs}
    return found, encoders


def meaning(codes: list[int], encoder: dict[str, Any]) -> list[str | None]:
    words = [None, *["?"] * encoder["out_of_vocabulary"], *encoder["vocabulary"]]
    return [words[code] for code in codes]


def test_own_columns_over_several_chunks() -> None:
    chunks = [pl.DataFrame({"gadget": ["phone", None, "desk"]}), pl.DataFrame({"gadget": ["desk", "tv", "phone"]})]
    specs = {"device": {"kind": "categorical", "column": "gadget", "min_count": 2}}
    found, encoders = final(specs, source(["gadget"]), *chunks)
    assert meaning(found["device"], encoders["device"]) == ["phone", None, "desk", "desk", "?", "phone"]


def test_a_users_table_and_an_items_table_with_times() -> None:
    users = pl.DataFrame({"user_id": [1, 2, 2], "country": ["it", "de", "at"], "age": [30.0, None, 50.0]})
    prices = pl.DataFrame(
        {"item_id": ["x", "x", "y", "x"], "timestamp": [10, 20, 10, 20], "shelf": ["low", "top", "mid", "z"]}
    )
    events = pl.DataFrame(
        {
            "user_id": [2, 1, 3, 1, 1],
            "item_id": ["x", "x", "y", "y", "x"],
            "timestamp": [30_000, 19_999, 10_000, 9_999, 20_000],  # microseconds
        }
    )
    specs = {"country": CATEGORICAL, "shelf": CATEGORICAL, "age": {"kind": "numeric", "edges": [40]}}
    found, encoders = final(specs, source(["user_id"], prices, users), events)
    assert meaning(found["country"], encoders["country"]) == [
        "at",
        "it",
        None,
        "it",
        "it",
    ]  # of two values the smallest
    assert meaning(found["shelf"], encoders["shelf"]) == ["top", "low", "mid", None, "top"]
    assert found["age"] == [2, 1, 0, 1, 1], "a value before none"


def test_the_values_order_does_not_matter() -> None:
    values = ["b", "a", None, "c", "a"]
    one = final({"f": CATEGORICAL}, source(["f"]), pl.DataFrame({"f": values}))
    other = final({"f": CATEGORICAL}, source(["f"]), pl.DataFrame({"f": values[::-1]}))
    assert (one[0]["f"], one[1]) == (other[0]["f"][::-1], other[1])


@pytest.mark.parametrize(
    ("specs", "columns", "message"),
    [
        ({"hour": CATEGORICAL}, ["hour"], "events.hour: the name is taken"),
        ({"time": CATEGORICAL}, ["time"], "events.time: the name is taken"),
        ({"devce": CATEGORICAL}, ["device"], "no column 'devce'.*did you mean 'device'"),
        ({"device": {"kind": "categoricl"}}, ["device"], "did you mean 'categorical'"),
        ({"device": {"kind": "multi"}}, ["device"], "multi"),
        ({"country": CATEGORICAL}, [], "needs a user column"),
    ],
)
def test_refusals(specs: dict[str, Any], columns: list[str], message: str) -> None:
    users = pl.DataFrame({"user_id": [1], "country": ["it"]})
    with pytest.raises(UserError, match=message):
        EventFeatures(specs, source(columns, users=users))
