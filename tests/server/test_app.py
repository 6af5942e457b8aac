"""The routes of a real server, against the retrievers of the same bundles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, live_server

from twotower.features import fit
from twotower.server.gate import NEEDED
from twotower.serving.buckets import bucket_of
from twotower.serving.retriever import Retriever

IDS = [f"sku-{number}" for number in range(40)]
INPUTS = {"event_type": 3, "device": 5}
FEATURES = {
    "time_zone": "UTC",
    "event_types": ["cart", "view"],
    "input_types": [1, 2],
    "events": {"device": fit("device", {"kind": "categorical"}, ["desktop", "phone", "tablet"])},
}
NAMES = [f"{'Red' if number % 2 else 'Blue'} shoe <{number}>" for number in range(40)]
COLUMNS = {"name": NAMES, "price": [float(number) for number in range(40)]}
HISTORY = [{"item_id": "sku-3", "event_type": "cart", "timestamp": 1_700_000_000_000}, "sku-5"]


@pytest.fixture(scope="module")
def bundles(make_bundle: Any) -> list[Path]:
    return [make_bundle(IDS, inputs=INPUTS, features=FEATURES, columns=COLUMNS, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def impressions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("impressions")


@pytest.fixture(scope="module")
def app(bundles: list[Path], impressions: Path) -> Iterator[LiveServer]:
    """Champion and challenger, which answers three users in ten."""
    options = ["--challenger", bundles[1], "--share", 0.3, "--salt", "test", "--impressions", impressions]
    with live_server(bundles[0], *options) as server:
        yield server


@pytest.fixture(scope="module")
def retriever(bundles: list[Path]) -> Retriever:
    return Retriever.load(bundles[0])


def ids_of(answer: Any) -> list[Any]:
    return [item["item_id"] for item in answer.json()["items"]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "exclude_seen": True},
        {"filters": {"price": {"max": 20}}, "exclude": ["sku-7"]},
        {"include": ["sku-1", "sku-2", "sku-30"]},
        {"context": {"device": "phone"}, "max_per": {"name": 1}},
        {"exploration": 0.5, "seed": 3},
    ],
)
def test_recommends_as_the_retriever_does(app: LiveServer, retriever: Retriever, options: dict[str, Any]) -> None:
    answer = app.post("/recommend", {"history": HISTORY, **options})
    expected = retriever.recommend([HISTORY], **options)
    assert ids_of(answer) == expected.ids[0]
    assert [item["score"] for item in answer.json()["items"]] == pytest.approx(expected.scores[0].tolist(), abs=1e-5)
    if expected.propensities is not None:
        probabilities = [item["probability"] for item in answer.json()["items"]]
        assert probabilities == pytest.approx(expected.propensities[0].tolist())


def test_each_event_changes_the_next_answer(app: LiveServer, retriever: Retriever) -> None:
    shown: list[Any] = []
    for number in range(4):
        event = {
            "user_id": "ü-1",
            "item_id": IDS[number],
            "event_type": "view",
            "timestamp": 1_700_000_000_000 + number,
        }
        assert app.post("/events", {"events": [event]}).json() == {"stored": 1, "ignored": {}}
        shown.append({name: value for name, value in event.items() if name != "user_id"})
        answer = app.post("/recommend", {"user_id": "ü-1", "bucket": "champion", "history": ["sku-9"]})
        assert ids_of(answer) == retriever.recommend([[*shown, "sku-9"]]).ids[0]
    assert app.get("/users/ü-1").json()["events"] == shown
    assert app.ask("DELETE", "/users/ü-1").json() == {"erased": True}
    assert app.post("/recommend", {"user_id": "ü-1", "k": 5}).json()["is_fallback"]


def test_events_that_would_hinder_their_user_are_refused(app: LiveServer) -> None:
    for event, where, message in (
        ({"eventType": "cart"}, "body", "did you mean 'event_type'?"),
        ({"timestamp": 4_000_000_000_000}, "body.events.0.timestamp", "is in the future"),
        ({"timestamp": 1_700_000_000}, "body.events.0.timestamp", "milliseconds since 1970"),
    ):
        refused = app.post("/events", {"events": [{"user_id": "u-3", "item_id": "sku-1", **event}]})
        assert refused.status in (400, 422) and refused.json()["error"]["where"] == where
        assert message in refused.json()["error"]["message"]
    assert app.get("/users/u-3").json()["events"] == []


def test_what_the_model_does_not_know_of_events_is_told(app: LiveServer) -> None:
    events = [
        {"user_id": 17, "item_id": "sku-1", "event_type": "view"},
        {"user_id": "17", "item_id": "other", "event_type": "buy", "shop": "north"},
    ]
    told = app.post("/events", {"events": events}).json()
    assert told["stored"] == 2
    assert told["unknown"] == {"ids in histories": 1, "event types": 1, "event keys": 1}
    assert len(app.get("/users/17").json()["events"]) == 2
    assert not app.post("/recommend", {"user_id": "17", "bucket": "champion"}).json()["is_fallback"]


def test_without_consent_nothing_is_kept(app: LiveServer) -> None:
    events = [{"user_id": "u-2", "item_id": "sku-1", "consent": consent} for consent in (False, True)]
    assert app.post("/events", {"events": events[:1]}).json() == {"stored": 0, "ignored": {"no consent": 1}}
    assert app.get("/users/u-2").json()["events"] == []
    app.post("/events", {"events": events[1:]})
    assert [event["item_id"] for event in app.get("/users/u-2").json()["events"]] == ["sku-1"]


def test_reasons_add_up_to_the_score(app: LiveServer) -> None:
    for item in app.post("/recommend", {"history": HISTORY, "explain": True, "k": 3}).json()["items"]:
        assert sum(reason["share"] for reason in item["reasons"]) == pytest.approx(item["score"], abs=1e-4)
        assert {"item_id": "sku-3", "event_type": "cart"}.items() <= item["reasons"][0].items() or item["reasons"][1:]


def test_users_are_split_by_hash(app: LiveServer, bundles: list[Path]) -> None:
    models = {bucket: Retriever.load(path) for bucket, path in zip(("champion", "challenger"), bundles, strict=True)}
    buckets = set()
    for number in range(20):
        user = f"split-{number}"
        answer = app.post("/recommend", {"user_id": user, "history": ["sku-3"], "k": 4})
        bucket = bucket_of(user, "test", {"challenger": 0.3, "champion": 0.7})
        assert answer.json()["bucket"] == bucket
        assert ids_of(answer) == models[bucket].recommend([["sku-3"]], 4).ids[0]
        buckets.add(bucket)
    assert buckets == set(models)


def test_similar_items_and_audience(app: LiveServer, retriever: Retriever) -> None:
    answer = app.post("/similar", {"item_id": "sku-4", "k": 3, "filters": {"price": {"min": 10}}})
    assert ids_of(answer) == retriever.similar_items(["sku-4"], 3, filters={"price": {"min": 10}}).ids[0]
    assert app.post("/similar", {"item_id": "other"}).status == 404
    users = {f"a-{number}": [IDS[number], IDS[number + 1]] for number in range(6)}
    events = [{"user_id": user, "item_id": item, "timestamp": 1_700_000_000_000 + place}
              for user, items in users.items() for place, item in enumerate(items)]  # fmt: skip
    app.post("/events", {"events": events})
    found = app.post("/audience", {"item_id": "sku-2", "k": 3, "user_ids": list(users)}).json()["users"]
    histories = [[{"item_id": i, "timestamp": 1_700_000_000_000 + p} for p, i in enumerate(v)] for v in users.values()]
    expected = retriever.audience(["sku-2"], histories, 3)
    assert [user["user_id"] for user in found] == [list(users)[row] for row in expected.histories[0]]
    assert app.post("/audience", {"item_id": "other"}).status == 404
    recent = app.post("/audience", {"item_id": "sku-2", "k": 100}).json()["users"]
    assert {user["user_id"] for user in recent} >= set(users)


def test_the_catalogue_can_be_searched(app: LiveServer) -> None:
    found = app.get("/items?search=red SHOE <1&limit=3").json()
    assert found["total"] == 6 and len(found["items"]) == 3  # 1, 11, 13, 15, 17, 19
    assert all(item["name"].startswith("Red shoe <1") for item in found["items"])
    assert app.get("/items/sku-7").json()["name"] == NAMES[7]
    assert app.get("/items/none").status == 404
    assert "expected one of bucket, limit, search" in app.get("/items?q=shoe").json()["error"]["message"]


def test_the_map_has_all_items_and_a_user_between_them(app: LiveServer) -> None:
    points = app.get("/map").json()["points"]
    assert [point[2] for point in points] == IDS and points[3][3] == NAMES[3]
    place = app.post("/map", {"history": ["sku-3"]}).json()
    xs = [point[0] for point in points]
    assert min(xs) - 5 < place["x"] < max(xs) + 5
    assert app.post("/map", {"history": []}).json() == {"x": None, "y": None}


WRONG = [
    ({"history": ["sku-1"], "kk": 3}, 422, "body.kk", "did you mean 'k'?"),
    ({"history": ["sku-1"], "k": 0}, 422, "body.k", "expected greater than or equal to 1"),
    ({"history": [""]}, 422, "body.history.0", "at least 1 character"),
    ({"history": [["sku-1"]]}, 422, "body.history.0", "expected a text or a whole number"),
    ({"history": ["sku-1"], "k": True}, 422, "body.k", "expected a valid integer"),
    ({"history": [{"item": "sku-1"}]}, 422, "body.history.0", "item_id is missing; expected a text or a number"),
    ({"history": [{"item_id": "sku-1", "device": ["phone"]}]}, 422, "body.history.0.device", "expected a valid"),
    ({"history": ["sku-1"], "filters": {"prize": 3}}, 400, "body", "prize"),
    ({"history": ["sku-1"], "objective": "purchase"}, 400, "body", "this bundle has no objectives"),
    ({"history": ["sku-1"], "bucket": "other"}, 422, "body.bucket", "expected 'champion' or 'challenger'"),
]


@pytest.mark.parametrize(("body", "status", "where", "message"), WRONG)
def test_says_what_is_wrong_and_where(app: LiveServer, body: Any, status: int, where: str, message: str) -> None:
    reply = app.post("/recommend", body, {"x-request-id": "r-1"})
    error = reply.json()["error"]
    assert (reply.status, error["where"], error["request_id"]) == (status, where, "r-1")
    assert message in error["message"]


def test_each_route_has_a_role(app: LiveServer) -> None:
    document = app.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        if path not in ("/health", "/ready"):
            assert {method.upper() for method in methods} <= set(NEEDED[path.split("/")[1]]), path


def test_openapi_has_the_bundles_own_event_keys(bundles: list[Path], app: LiveServer) -> None:
    schemas = app.get("/openapi.json").json()["components"]["schemas"]
    assert {"item_id", "user_id", "event_type", "timestamp", "consent"} <= set(schemas["UserEvent"]["properties"])
