"""Raw events become the codes that a naive loop over them gives, and faulty ones are refused."""

import bisect
import math
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from serving_oracle import MAX_LENGTH, NOTHING

from twotower.core.errors import UserError
from twotower.features import fit
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.retriever import Retriever

IDS = [10, 20, 30, 40, 50, 60, 70]
TYPES = ["bounce", "cart", "purchase", "view"]
INPUT_TYPES = [4, 2, 3, 4]  # a bounce counts as a view
DEVICES = ["desktop", "phone", "tablet"]
EDGES = [18.0, 35.0, 65.0]
INPUTS = ["hour", "device", "gap", "event_type", "age", "weekday"]  # in no order of note
ENCODERS = {
    "device": {**fit("device", {"kind": "categorical"}, DEVICES), "column": "ua"},
    "age": fit("age", {"kind": "numeric", "edges": EDGES}, [1.0]),
}
NEVER_SEEN = {"device": 1 + len(DEVICES) + 1, "age": 2 + len(EDGES)}  # null, one out-of-vocabulary code, vocabulary
SIZES = {"event_type": 5, "gap": 64, "hour": 25, "weekday": 8, **NEVER_SEEN}
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Chatham"]
START = 1_743_205_000_000  # 28 March 2025: clocks change in Berlin two days later


def features(zone: str) -> dict[str, Any]:
    return {"time_zone": zone, "event_types": TYPES, "input_types": INPUT_TYPES, "events": ENCODERS}


def raw_events(random: np.random.Generator, count: int) -> list[Any]:
    """Events in every form that a caller may send, oldest first."""
    time, events = START + int(random.integers(0, 200 * 24 * 3_600_000)), []
    for _ in range(count):
        time += int(random.choice([0, 1, 400, 999, 1000, 3001, 60_000, 7_200_000, 40_000_000]))
        moment = datetime.fromtimestamp(time / 1000, UTC)
        abroad = timezone(timedelta(hours=-7))
        forms = [time, float(time), np.int64(time), moment, moment.replace(tzinfo=None), moment.astimezone(abroad)]
        event = {
            "item_id": int(random.choice([*IDS, 998, 999])),
            "event_type": str(random.choice([*TYPES, "never seen"])),
            "timestamp": forms[random.integers(len(forms))],
            "ua": str(random.choice([*DEVICES, "never seen"])),
            "age": [3, 18.0, 34.9, 70, "41", math.nan][random.integers(6)],
            "price": 9.99,
        }
        for key in list(event)[1:]:
            if random.random() < 0.15:
                event[key] = None
                if random.random() < 0.5:
                    del event[key]
        events.append(event["item_id"] if random.random() < 0.1 else event)
    return events


def milliseconds(value: Any) -> int | None:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    return None if value is None else int(value)


def naive_codes(history: list[Any], zone: str) -> list[list[int]]:
    """[l][K] by a loop over events, one value at a time."""
    rows, before = [], None
    for event in history:
        event = event if isinstance(event, dict) else {}
        time = milliseconds(event.get("timestamp"))
        local = datetime.fromtimestamp(time // 1000, ZoneInfo(zone)) if time is not None else None
        gap = math.floor(2 * math.log2(1 + (time - before) / 1000)) + 1 if before and time else 0
        kind, device, age = event.get("event_type"), event.get("ua"), event.get("age")
        codes = {
            "event_type": INPUT_TYPES[TYPES.index(kind)] if kind in TYPES else 0,
            "gap": gap,
            "hour": 1 + local.hour if local else 0,
            "weekday": 1 + local.weekday() if local else 0,
            "device": 0 if device is None else 2 + DEVICES.index(device) if device in DEVICES else 1,
            "age": 0 if age is None or age != age else 1 + bisect.bisect_right(EDGES, float(age)),
        }
        rows.append([codes[name] for name in INPUTS])
        before = time
    return rows


@pytest.fixture(scope="module", params=ZONES)
def zone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def retriever(make_bundle: Any, zone: str) -> Retriever:
    sizes = {name: SIZES[name] for name in INPUTS}
    return Retriever.load(make_bundle(IDS, inputs=sizes, features=features(zone)))


def test_codes_equal_a_naive_loop(zone: str) -> None:
    random = np.random.default_rng(2)
    encoder = EventEncoder(INPUTS, features(zone))
    histories = [raw_events(random, n) for n in [1, 1, 2, 3, 5, 8, 60, 60, 60]]
    events = [e if isinstance(e, dict) else {} for history in histories for e in history]
    first = [i == 0 for history in histories for i in range(len(history))]
    expected = [row for history in histories for row in naive_codes(history, zone)]
    codes = encoder.codes(events, np.array(first))
    np.testing.assert_array_equal(codes, expected)
    assert all(len(set(column)) > 3 for column in codes.T)


def test_times_are_seconds_and_zero_where_unknown() -> None:
    encoder = EventEncoder(["time", "hour"], features("UTC"))
    assert encoder.sizes == {"time": 10**11, "hour": 25}
    random = np.random.default_rng(8)
    events = [e if isinstance(e, dict) else {} for e in raw_events(random, 60)]
    times = [milliseconds(event.get("timestamp")) for event in events]
    codes = encoder.codes(events, np.arange(60) == 0)
    assert codes[:, 0].tolist() == [0 if time is None else time // 1000 for time in times]
    assert 0 < times.count(None) < 30
    with pytest.raises(UserError, match=r"key 'timestmp'.*did you mean 'timestamp'"):
        EventEncoder(["time"], features("UTC")).codes([{"item_id": 10, "timestmp": START}], np.array([True]))


def test_answers_to_events_are_those_to_their_codes(retriever: Retriever, zone: str) -> None:
    random = np.random.default_rng(3)
    histories = [raw_events(random, n) for n in [0, 1, 2, 3, 4, 9, 30, 0]]
    ids = [[e["item_id"] if isinstance(e, dict) else e for e in history] for history in histories]
    codes = [naive_codes(history, zone) for history in histories]
    answers = retriever.recommend(histories, k=5)
    expected = retriever.recommend_encoded(ids, codes, k=5)
    assert answers.ids == expected.ids
    np.testing.assert_array_equal(answers.scores, expected.scores)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(retriever.recommend([history], k=5).scores[0], answers.scores[row], rtol=1e-5)
    assert not np.array_equal(answers.scores[1:7], retriever.recommend(ids, k=5).scores[1:7])  # the codes count


def test_pause_is_that_since_the_event_before_known_or_not(make_bundle: Any) -> None:
    retriever = Retriever.load(make_bundle(IDS, inputs={"gap": 64}, features=NOTHING))
    events = [{"item_id": item, "timestamp": START + 1000 * t} for item, t in [(10, 0), (999, 100), (20, 103)]]
    answers = retriever.recommend([events], k=3)
    expected = retriever.recommend_encoded([[10, 20]], [[[0], [5]]], k=3)  # 1 + 2 log2(1 + 3 seconds) = 5
    np.testing.assert_array_equal(answers.scores, expected.scores)

    long = [{"item_id": 10, "timestamp": START + 3000 * t} for t in range(MAX_LENGTH + 1)]  # the first one is cut off
    expected = retriever.recommend_encoded([[10] * MAX_LENGTH], [[[5]] * MAX_LENGTH], k=3)
    np.testing.assert_array_equal(retriever.recommend([long], k=3).scores, expected.scores)


def test_model_without_inputs_takes_events_for_their_items(make_bundle: Any) -> None:
    retriever = Retriever.load(make_bundle(IDS))
    events = [{"item_id": 10, "event_type": "view", "timestamp": "yesterday"}, 20, {"item_id": 30, "evnt_type": 1}]
    answers = retriever.recommend([events, [10]], k=3)
    assert answers.ids == retriever.recommend([[10, 20, 30], [10]], k=3).ids


WANTED = {"event_type": "view", "timestamp": START, "ua": "phone", "age": 20}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({}, r"the keys \[\]; expected 'item_id'"),
        ({"sku": 10}, r"the keys \['sku'\]; expected 'item_id'"),
        ({"item_id": [10]}, "hold lists"),
        ({"item_id": 10, "timestmp": START}, "key 'timestmp'.*did you mean 'timestamp'"),
        ({"item_id": 10, "eventType": "view"}, "key 'eventType'.*did you mean 'event_type'"),
        ({"item_id": 10, "Age": 20}, "key 'Age'.*did you mean 'age'"),
        ({"item_id": 10, "timestamp": START // 1000}, "timestamp 1743205000; expected .*milliseconds"),
        ({"item_id": 10, "timestamp": START * 1000}, "timestamp 1743205000000000; expected"),
        ({"item_id": 10, "timestamp": "2025-03-28"}, "timestamp '2025-03-28'; expected a datetime"),
        ({"item_id": 10, "timestamp": True}, "timestamp True; expected"),
        ({"item_id": 10, "timestamp": math.inf}, "timestamp inf; expected"),
        ({"item_id": "ten"}, "of type int: 'ten' is of type str"),
    ],
)
def test_faulty_events_are_refused(make_bundle: Any, event: Any, reason: str) -> None:
    sizes = {name: SIZES[name] for name in INPUTS}
    retriever = Retriever.load(make_bundle(IDS, inputs=sizes, features=features("UTC")))
    with pytest.raises(UserError, match=reason):
        retriever.recommend([[event]])


def test_keys_that_the_model_does_not_use_are_ignored(make_bundle: Any) -> None:
    sizes = {name: SIZES[name] for name in INPUTS}
    retriever = Retriever.load(make_bundle(IDS, inputs=sizes, features=features("UTC")))
    event = {"item_id": 10, **WANTED}
    more = {**event, "page": 3, "user_id": 5, "session_id": 7, "ages": 9, "timestmp": 0, "price": 1.0, 4: 5}
    expected = retriever.recommend([[event]], k=3)  # "ages" beside "age" is another column
    np.testing.assert_array_equal(retriever.recommend([[more]], k=3).scores, expected.scores)
    retriever.recommend([[{"item_id": 10, "page": 3}, {"item_id": 10, "user_id": 3}]])


@pytest.mark.parametrize(
    ("ids", "codes", "reason"),
    [
        ([[10, 20]], [[[1] * 6]], "each of 2 items and 6 inputs"),
        ([[10]], [[[1] * 5]], "each of 1 items"),
        ([[10]], [[[25, 0, 0, 0, 0, 0]]], "outside its input's range"),
        ([[10]], [[[-1, 0, 0, 0, 0, 0]]], "outside its input's range"),
    ],
)
def test_faulty_codes_are_refused(make_bundle: Any, ids: Any, codes: Any, reason: str) -> None:
    sizes = {name: SIZES[name] for name in INPUTS}
    retriever = Retriever.load(make_bundle(IDS, inputs=sizes, features=features("UTC")))
    with pytest.raises(UserError, match=reason):
        retriever.recommend_encoded(ids, codes)


def test_universal_time_needs_no_time_zone_data() -> None:
    code = (
        "import zoneinfo, numpy as np; from twotower.serving.event_encoder import EventEncoder; "
        "zoneinfo.reset_tzpath([]); "
        f"e = EventEncoder(['hour', 'weekday'], {NOTHING!r}); "
        f"print(e.codes([{{'timestamp': {START}}}], np.array([True])).tolist())"
    )
    block = "import sys; sys.modules['tzdata'] = None; "
    result = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=True)
    moment = datetime.fromtimestamp(START / 1000, UTC)
    assert result.stdout.strip() == f"[[{1 + moment.hour}, {1 + moment.weekday()}]]"


def test_a_datetime_without_a_zone_is_universal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = EventEncoder(["hour"], NOTHING)
    try:
        monkeypatch.setenv("TZ", "JST-9")  # wherever the server stands
        time.tzset()
        codes = encoder.codes([{"timestamp": datetime(2025, 3, 28, 7, 30)}], np.array([True]))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert codes.tolist() == [[8]]
