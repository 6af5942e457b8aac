"""An event means the same in serving as it meant in training: a raw log, prepared, against the retriever's reading."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared
from twotower.runs.config_folder import CONF
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.retriever import Retriever

SESSIONS, ITEMS = 60, 25
START = datetime(2025, 3, 25, 21, 17, 3, 123456, UTC)  # some days before clocks change in Europe


def raw_sessions() -> list[list[dict[str, Any]]]:
    """Sessions in the order in which they begin; the last ones, of the test, have an item and a device of their own."""
    random = np.random.default_rng(5)
    sessions = []
    for number in range(SESSIONS):
        time = START + timedelta(hours=4 * number)
        session = []
        for step in range(int(random.integers(6, 12))):
            event = {
                "sku": f"item-{random.integers(ITEMS)}",
                "kind": str(random.choice(["view", "view", "view", "cart", "purchase"])),
                "at": time,
                "ua": [None, "phone", "tablet", "desktop"][random.integers(4)],
                "age": [None, 17, 18, 36.5, 90][random.integers(5)],
            }
            if number > SESSIONS - 3 and step in (2, 3):
                event |= {"ua": "fridge"} if step == 2 else {"sku": f"new-{number}"}
            session.append(event)
            time += timedelta(microseconds=int(random.choice([800, 2_999_900, 3_000_100, 61e6, 1.2e9, 9e9])))
        sessions.append(session)
    return sessions


@pytest.fixture(scope="module", params=["UTC", "Europe/Berlin", "Asia/Kolkata"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("log")
    rows = [{"visit": n, **event} for n, session in enumerate(raw_sessions()) for event in session]
    pl.DataFrame(rows, schema_overrides={"age": pl.Float64}).write_parquet(folder / "events.parquet")
    overrides = [
        "data=events",
        f"data.path={folder / 'events.parquet'}",
        "data.columns={item_id: sku, session_id: visit, timestamp: at, event_type: kind}",
        f"prepared_root={folder}",
        f"preparation.time_zone={request.param}",
        "preparation.bounce={event_type: view, seconds: 3}",
        "+preparation.features.events.device={kind: categorical, column: ua, out_of_vocabulary: 2}",
        "+preparation.features.events.age={kind: numeric, buckets: 3}",
        "run_dir=nowhere",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["name=parity", *overrides])
    opened: Prepared = instantiate(config.data)
    assert set(opened.inputs) == {"event_type", "gap", "hour", "weekday", "device", "age"}
    assert "bounce" in opened.event_types
    return opened


NAMES = {"sku": "item_id", "kind": "event_type", "at": "timestamp", "ua": "ua", "age": "age"}


def as_sent(session: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events as a shop sends them: times in milliseconds or as datetimes, nulls given or left out."""
    events = [{NAMES[key]: value for key, value in event.items()} for event in session]
    for event in events[::2]:
        event["timestamp"] = (event["timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    return [{key: value for key, value in event.items() if value is not None} for event in events]


def test_codes_in_serving_are_those_of_preparation(prepared: Prepared, make_bundle: Any) -> None:
    features = json.loads((prepared.path / FEATURES_FILE).read_text())
    sizes = prepared.manifest["inputs"]
    ids = pl.read_parquet(prepared.path / CATALOGUE_FILE)["item_id"].to_list()
    encoder = EventEncoder(list(sizes), features)
    assert encoder.sizes == sizes
    clock = EventEncoder(["time"], features)
    sessions = raw_sessions()
    assert len(prepared.offsets) == len(sessions) + 1
    known_ids, known_codes = [], []
    for number, session in enumerate(sessions):
        events = as_sent(session)
        codes = encoder.codes(events, np.arange(len(events)) == 0)
        known = np.array([event["item_id"] in ids for event in events])
        place = slice(prepared.offsets[number], prepared.offsets[number + 1])
        expected = np.stack([prepared.inputs[name][place] for name in sizes], axis=1)
        np.testing.assert_array_equal(codes[known], expected)
        seconds = clock.codes(events, np.arange(len(events)) == 0)[known, 0]
        np.testing.assert_array_equal(seconds, prepared.timestamp[place] // 1000)
        known_ids.append([ids[i - 1] for i in prepared.item_index[place]])
        known_codes.append(expected.tolist())
    assert sum(map(len, sessions)) > prepared.offsets[-1]  # some items are new in the test

    retriever = Retriever.load(make_bundle(ids, inputs=sizes, features=features))
    answers = retriever.recommend([as_sent(session) for session in sessions], k=5)
    from_codes = retriever.recommend_encoded(known_ids, known_codes, k=5)
    assert answers.ids == from_codes.ids
    np.testing.assert_array_equal(answers.scores, from_codes.scores)


def test_the_log_has_codes_of_all_kinds(prepared: Prepared) -> None:
    seen = {name: set(np.unique(codes).tolist()) for name, codes in prepared.inputs.items()}
    assert seen["event_type"] == {1, 2, 3, 4} - {1 + prepared.event_types.index("bounce")}  # a bounce is a view
    assert seen["device"] >= {0, 3, 4, 5} and seen["device"] & {1, 2}  # null, three known, out of vocabulary
    assert seen["age"] == {0, 1, 2, 3}
    assert seen["weekday"] == set(range(1, 8)) and len(seen["hour"]) > 20 and len(seen["gap"]) > 5
