"""Malformed, hostile and huge requests that hypothesis makes: each is refused, with a 4xx and a place."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import hostile_requests as hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import LiveServer, live_server
from toy_bundle import MakeBundle

ROUTES = {  # a good request of each, with the least that it needs
    "/recommend": {"history": ["sku-00000001"]},
    "/similar": {"item_id": "sku-00000001"},
    "/audience": {"item_id": "sku-00000001"},
    "/events": {"events": [{"user_id": "u", "item_id": "sku-00000001"}]},
    "/map": {"history": ["sku-00000001"]},
}
MEGABYTE = 2**20


class Attack(NamedTuple):
    """A request that must be refused."""

    what: str
    path: str
    body: bytes
    headers: dict[str, str] = hostile.JSON_TYPE

    def __repr__(self) -> str:
        return f"{self.what} to {self.path}: {self.body[:120]!r} ({len(self.body)} bytes, {self.headers})"


def changed(path: str, what: str, **changes: Any) -> Attack:
    return Attack(what, path, json.dumps({**ROUTES[path], **changes}).encode())


def not_none(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """null leaves these keys out."""
    return values.filter(lambda value: value is not None)


PATHS = st.sampled_from(list(ROUTES))
LISTS = st.sampled_from(["/recommend", "/similar"])
OBJECTS = [text for text in hostile.FILTERS.splitlines() if text.startswith('{"') and "NaN" not in text]
PREDICATES = hostile.VALUES.filter(lambda value: value is not None and not isinstance(value, dict)) | st.sampled_from(
    [json.loads(text) for text in OBJECTS]
)
NO_IDS = hostile.VALUES.filter(lambda value: value is not None and not isinstance(value, list)) | st.lists(
    hostile.NO_ID, min_size=1, max_size=3
)
PARAMETERS = {name: hostile.WRONG_PARAMS[name] for name in ("k", "exclude_seen", "exploration")}
PARAMETERS |= {
    "seed": not_none(hostile.WRONG_PARAMS["seed"]),
    "user_id": not_none(hostile.VALUES.filter(lambda value: not isinstance(value, str) or value == "")),
    "bucket": st.text(max_size=8) | st.integers() | st.just({}),
    "timestamp": st.integers(max_value=10**11 - 1) | st.integers(min_value=10**14) | hostile.NUMBERS | st.booleans(),
    "context": st.lists(hostile.SCALARS) | st.integers() | st.just({"device": []}) | st.just({"a": {"b": 1}}),
    "max_per": st.just({"category": 0}) | st.just({"brand": 1}) | st.integers() | st.lists(st.integers(), max_size=2),
    "explain": st.integers() | st.text() | st.none(),
}
NO_EVENT = hostile.NO_EVENT.filter(lambda event: not isinstance(event, dict) or "timestmp" not in event)


def as_stored(event: Any) -> Any:
    return {**event, "user_id": "u"} if isinstance(event, dict) else event


def unknown(path: str, key: str, value: Any) -> Attack:
    return changed(path, "unknown key", **{key: value})


KEYS = st.sampled_from(["inputs", "K", "historys", "constructor", "__proto__", "", "\0", "é"])
ATTACKS: st.SearchStrategy[Attack] = st.one_of(
    st.builds(lambda path, body: Attack("no JSON", path, body), PATHS, hostile.NO_JSON),
    PATHS.flatmap(
        lambda path: st.integers(0, len(json.dumps(ROUTES[path])) - 1).map(
            lambda end: Attack("cut off", path, json.dumps(ROUTES[path]).encode()[:end])
        )
    ),
    st.builds(
        lambda path, value: Attack("no object", path, json.dumps(value).encode()),
        PATHS,
        hostile.VALUES.filter(lambda value: not isinstance(value, dict)),
    ),
    st.builds(unknown, PATHS, KEYS, hostile.VALUES),
    *(
        values.map(lambda value, name=name: changed("/recommend", f"wrong {name}", **{name: value}))
        for name, values in PARAMETERS.items()
    ),
    st.builds(lambda path, value: changed(path, "filters", filters=value), LISTS, PREDICATES),
    st.builds(lambda path, text: Attack(
        "long filters", path, json.dumps(ROUTES[path]).encode()[:-1] + b', "filters": ' + text.encode() + b"}"
    ), LISTS, st.sampled_from(hostile.LONG_FILTERS)),
    st.builds(lambda path, value: changed(path, "include", include=value), LISTS, NO_IDS),
    st.builds(lambda path, value: changed(path, "exclude", exclude=value), LISTS, NO_IDS),
    st.builds(lambda value: changed("/recommend", "no history", history=value), NO_IDS),
    st.builds(lambda event: changed("/events", "no event", events=[as_stored(event)]), NO_EVENT),
    st.builds(
        lambda path, request: Attack("content type", path, json.dumps(ROUTES[path]).encode(), request),
        PATHS,
        hostile.TYPES.filter(lambda types: not types.get("Content-Type", "").startswith("application/json")),
    ),
    st.builds(lambda path, attack: Attack(attack.what, path, attack.body, attack.headers), PATHS, hostile.RAW),
)  # fmt: skip


@pytest.fixture(scope="module")
def server(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    columns = {"category": ["a", "b", None] * 10, "price": [float(n) for n in range(30)]}
    bundle = make_bundle([f"sku-{n:08}" for n in range(30)], columns=columns)
    with live_server(bundle) as running:
        yield running


def test_hostile_requests_are_refused_and_take_no_memory(server: LiveServer) -> None:
    def require_good_answers() -> None:
        for path, content in ROUTES.items():
            reply = server.ask("POST", path, content)
            assert reply.status == 200, (path, reply)

    require_good_answers()
    before = server.memory()

    @settings(max_examples=300, derandomize=True, deadline=None, database=None)
    @given(attack=ATTACKS)
    def refused(attack: Attack) -> None:
        try:
            reply = server.ask("POST", attack.path, attack.body, headers=attack.headers)
        except ConnectionError:  # closed while it was sent: a busy machine takes too long for all of a large one
            assert len(attack.body) > MEGABYTE
            return
        assert hostile.wrong_with(reply.status, reply.content) is None, attack
        error = reply.json()["error"]
        assert error["where"] and error["request_id"] == reply.headers["x-request-id"]

    refused()
    require_good_answers()
    assert server.memory() - before < 64 * MEGABYTE
    assert "Traceback" not in server.log()
