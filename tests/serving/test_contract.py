"""What a bundle says that requests may hold, against a naive count of its columns and the encoders that made it."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from naive_shop import BRAND, COLUMNS, COUNTS, IDS, PRICE, VALUES
from test_event_encoder import DEVICES, EDGES, INPUTS, SIZES, TYPES, features
from test_event_encoder import IDS as FEW

from twotower.serving.contract import SHOWN, contract
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.retriever import Retriever

GOLDEN = {"histories": [[{"item_id": 10, "codes": {}}, {"item_id": 20, "codes": {}}]]}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("inputs", [INPUTS, ["gap"], ["device"], []])
def test_the_keys_of_events(zone: str, inputs: list[str]) -> None:
    columns = pa.table({"item_id": FEW, "train_count": FEW, "age_days": FEW})
    events = contract(EventEncoder(inputs, features(zone)), columns, GOLDEN)["events"]
    timed = [name for name in inputs if name in ("hour", "gap", "weekday")]
    expected: dict[str, Any] = {
        "item_id": {"type": "integer", "required": True, "inputs": []},
        "timestamp": {"type": "integer", "inputs": timed, "unit": "milliseconds since 1970-01-01 00:00 UTC"},
        "event_type": {"type": "text", "inputs": [], "values": TYPES, "number of values": 4},
    }
    if "hour" in inputs:
        expected["timestamp"]["time_zone"] = zone
        expected["event_type"]["inputs"] = ["event_type"]
        expected["age"] = {"type": "number", "inputs": ["age"], "edges": EDGES}
    if "device" in inputs:
        expected["ua"] = {"type": "text", "inputs": ["device"], "values": sorted(DEVICES), "number of values": 3}
    assert events == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_columns_of_filters_equal_a_naive_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = [f"w{n}" for n in random.zipf(1.3, 500) % 60]
    price = [float(p) if p < 90 else None for p in random.integers(1, 100, 500)]
    ids = [f"i{n}" for n in range(500)]
    table = pa.table({"item_id": ids, "word": words, "price": price, "none": pa.nulls(500, pa.int64())})
    filters = contract(EventEncoder([], features("UTC")), table, {"histories": [["i1"]]})["filters"]
    count = Counter(words)
    shown = filters["word"]["values"]
    assert [*filters] == ["word", "price", "none"]
    assert [count[word] for word in shown] == [n for _, n in count.most_common(SHOWN)] and len({*shown}) == SHOWN
    assert filters["word"]["number of values"] == len(count)
    known = [p for p in price if p is not None]
    assert filters["price"] == {"type": "number", "from": min(known), "to": max(known)}
    assert filters["none"] == {"type": "number"}


def test_the_example_is_answered_and_has_nothing_unknown(make_bundle: Any) -> None:
    shop = make_bundle(IDS, COUNTS, columns=COLUMNS)
    events = make_bundle(FEW, inputs={name: SIZES[name] for name in INPUTS}, features=features("Europe/Berlin"))
    for path, columns in ((shop, {"item_id": IDS, **COLUMNS}), (events, {"item_id": FEW})):
        retriever = Retriever.load(path, strict=True)
        golden = {"histories": [[columns["item_id"][row] for row in (0, 1, 2, 3)]]}
        requests = contract(retriever.bundle.encoder, pa.table(columns), golden)
        results = retriever.recommend(**requests["example"])
        assert len(results.ids[0]) > 0 and retriever.unknown == {}
        (history,) = requests["example"]["histories"]
        assert [event["item_id"] for event in history] == columns["item_id"][1:4]
        assert all({*event} == {*requests["events"]} - ({"event_type"} if path == shop else set()) for event in history)
    most = Counter(brand for brand in BRAND if brand).most_common(1)[0][0]
    requests = contract(EventEncoder([], features("UTC")), pa.table({"item_id": IDS, **COLUMNS}), GOLDEN)
    assert requests["example"]["filters"] == {"brand": most}
    assert {*requests["filters"]["tags"]["values"]} == {tag for tags in VALUES["tags"] for tag in tags}
    assert requests["filters"]["price"]["to"] == max(price for price in PRICE if price)
