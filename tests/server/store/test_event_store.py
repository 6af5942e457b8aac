"""What every store of user events keeps: each test runs on SQLite and on a real Redis."""

import json
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_process import RedisProcess, running_redis

from twotower.core.errors import UserError
from twotower.server.store.event_store import Event, EventStore, StoreUnavailable, open_store

Open = Callable[..., EventStore]
LONG = 3600.0
SOON = 30.0  # seconds after which a test gives up waiting


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with running_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """One that a test may end."""
    with running_redis(tmp_path) as process:
        yield process


@pytest.fixture(params=["sqlite", "memory", "redis", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("sqlite", "memory"):
        return f"{request.param}:{tmp_path / 'events.db'}"
    process: RedisProcess = request.getfixturevalue("server")
    redis.Redis(port=process.port).flushall()
    return process.url(form=request.param)


@pytest.fixture
def opened(url: str) -> Iterator[Open]:
    stores: list[EventStore] = []

    def start(length: int = 3, expiry_s: float = LONG, max_users: int = 1000) -> EventStore:
        stores.append(open_store(url, length, expiry_s, max_users))
        return stores[-1]

    yield start
    for store in stores:
        store.close()


def event(item: Any, timestamp: int, **others: Any) -> Event:
    return {"item_id": item, "timestamp": timestamp, **others}


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_newest_events_of_each_user_oldest_first(opened: Open) -> None:
    store = opened(length=3)
    store.add([("u", event(f"i{t}", t)) for t in (5, 2, 9, 7)] + [("w", event(1, 4, event_type="cart"))])
    assert store.histories(["w", "nobody", "u", "w"]) == [
        [{"item_id": 1, "timestamp": 4, "event_type": "cart"}],
        [],
        [event("i5", 5), event("i7", 7), event("i9", 9)],
        [{"item_id": 1, "timestamp": 4, "event_type": "cart"}],
    ]
    assert store.histories([]) == [] and store.size() == 2
    store.add([])
    store.check()


def test_types_of_values_are_kept_and_make_events_different(opened: Open) -> None:
    store = opened(length=10)
    events = [event(5, 1), event("5", 1), event("5", 1, price=1), event("5", 1, price=1.0), event("5", 1, price=True)]
    store.add([("u", each) for each in [*events, *events]])
    [history] = store.histories(["u"])
    assert sorted(map(typed, history)) == sorted(map(typed, events))


def typed(event: Event) -> str:
    return repr(sorted(event.items()))


def test_users_by_newest_activity_whatever_the_times_of_their_events(opened: Open) -> None:
    store = opened()
    for user, timestamp in (("a", 100), ("b", 1), ("c", 50), ("a", 3)):
        store.add([(user, event("i", timestamp))])
    assert store.recent(2) == ["a", "c"] and store.recent(10) == ["a", "c", "b"] and store.recent(0) == []
    store.add([("d", event("i", 1)), ("e", event("i", 1)), ("d", event("j", 1))])
    assert store.recent(2) == ["d", "e"]


def test_users_seen_least_recently_leave(opened: Open) -> None:
    store = opened(max_users=3)
    for user in ("a", "b", "c", "a", "d", "e"):
        store.add([(user, event("i", 1))])
    assert store.recent(10) == ["e", "d", "a"] and store.size() == 3
    assert store.histories(["b", "c"]) == [[], []]
    store.add([(f"u{number}", event("i", 1)) for number in range(1200)])  # more than a transaction or a script
    assert store.recent(3) == ["u1199", "u1198", "u1197"] and store.size() == 3


def test_events_expire_after_the_last_addition(opened: Open) -> None:
    short, long = opened(expiry_s=0.05), opened()
    long.add([("stays", event("i", 1))])
    assert long.histories(["stays"]) != [[]] and long.size() == 1
    short.add([("goes", event("i", 1))])
    eventually(lambda: short.histories(["goes"]) == [[]] and short.size() == 0 and short.recent(5) == [])


def test_forgotten_users_are_gone_and_older_events_stay_away(opened: Open) -> None:
    store = opened()
    before = int(time.time() * 1000)
    store.add([("u", event("i", before - 1)), ("w", event("i", 1))])
    assert store.forget(["u", "stranger"]) == 1
    assert store.histories(["u", "w"]) == [[], [event("i", 1)]] and store.recent(5) == ["w"] and store.size() == 1
    store.add([("u", event("late", before)), ("stranger", event("late", 7))])  # a replay of the stream
    assert store.histories(["u", "stranger"]) == [[], []] and store.size() == 1
    later = int(time.time() * 1000) + 60_000
    store.add([("u", event("late", before)), ("u", event("new", later))])
    assert store.histories(["u"]) == [[event("new", later)]]
    assert store.forget(["u"]) == 1 and store.forget(["u"]) == 0


def test_the_mark_of_an_erasure_expires(opened: Open) -> None:
    store = opened(expiry_s=0.05)
    store.forget(["u"])
    store = opened()

    def comes_back() -> bool:
        opened(expiry_s=0.05).add([("other", event("i", 1))])
        store.add([("u", event("i", 1))])
        return store.histories(["u"]) != [[]]

    eventually(comes_back)


def test_what_no_store_can_hold_is_refused_whole_and_names_nobody(opened: Open) -> None:
    store = opened()
    bad: list[tuple[str, Event]] = [
        ("secret-user", event("i", -1)),
        ("secret-user", event("i", 2**53 + 1)),
        ("secret-user", event("i", 1.5)),  # type: ignore[arg-type]  # what is refused
        ("secret-user", event("i", True)),
        ("secret-user", {"item_id": "i"}),
        ("secret-user", event("\ud800", 1)),
        ("secret-user", event({1, 2}, 1)),
        ("secret-user\ud800", event("i", 1)),
    ]
    for each in bad:
        with pytest.raises(UserError) as caught:
            store.add([("fine", event("i", 1)), each])
        assert "secret" not in str(caught.value) and not isinstance(caught.value, StoreUnavailable)
    assert store.size() == 0


IDS = st.sampled_from(["u", "U", "ü", "\u00e9", "e\u0301", "\x00", "a b\nc", "日本", "💥", "tt:users", ""])
EVENTS = st.builds(
    event,
    st.one_of(st.integers(-3, 3), st.text(max_size=3)),
    st.integers(0, 6),
    event_type=st.sampled_from(["view", "cart"]),
)
NUMBERS = count()


@pytest.mark.parametrize("url", ["memory", "redis"], indirect=True)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_and_repetition_gives_one_result(opened: Open, url: str, data: st.DataObject) -> None:
    example = next(NUMBERS)
    ids = IDS.map(lambda name: f"{name}{example}")
    added = data.draw(st.lists(st.tuples(ids, EVENTS), max_size=30))
    erased = data.draw(st.sets(ids, max_size=2))
    length = data.draw(st.integers(1, 6))

    oracle: dict[str, dict[str, tuple[int, bytes, Event]]] = {}  # user -> JSON -> what the order is, and the event
    for user, each in added:
        text = json.dumps(each, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        oracle.setdefault(user, {})[text] = (each["timestamp"], text.encode(), each)

    replayed = data.draw(st.permutations(added + data.draw(st.lists(st.sampled_from(added)) if added else st.just([]))))
    store = opened(length=length, max_users=100_000)
    store.forget(sorted(erased))
    at = 0
    while at < len(replayed):
        size = data.draw(st.integers(1, len(replayed)))
        store.add(replayed[at : at + size])
        at += size
    users = sorted(oracle)
    expected = [[] if u in erased else [e for *_, e in sorted(oracle[u].values())][-length:] for u in users]
    assert store.histories(users) == expected
    assert sorted({*store.recent(1000)} & {*users}) == [user for user in users if user not in erased]


def write_many(url: str, writer: int, failed: Any) -> None:
    store = open_store(url, 1000, LONG, 10_000)
    try:
        for number in range(100):
            store.add([("shared", event(f"{writer}-{number}", number)), (f"own-{writer}-{number}", event("i", 1))])
    except BaseException:
        failed.set()
        raise


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_two_processes_write_at_once(opened: Open, url: str) -> None:
    context = multiprocessing.get_context("spawn")
    failed = context.Event()
    writers = [context.Process(target=write_many, args=(url, writer, failed)) for writer in range(2)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(120)
    assert not failed.is_set() and [each.exitcode for each in writers] == [0, 0]
    store = opened(length=1000)
    assert {e["item_id"] for e in store.histories(["shared"])[0]} == {f"{w}-{n}" for w in range(2) for n in range(100)}
    assert store.size() == 201


def test_threads_share_a_store(opened: Open) -> None:
    store, errors = opened(length=1000), []

    def work(thread: int) -> None:
        try:
            for number in range(50):
                store.add([("u", event(f"{thread}-{number}", number))])
                assert any(each["item_id"] == f"{thread}-{number}" for each in store.histories(["u"])[0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(store.histories(["u"])[0]) == 200


def test_a_file_keeps_its_events_after_a_kill(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'new' / 'events.db'}"
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_and_wait, args=(url,))
    writer.start()
    eventually(lambda: (tmp_path / "new" / "done").exists())
    writer.kill()
    writer.join()
    store = open_store(url, 3, LONG, 1000)
    assert store.histories(["u"]) == [[event("i", 1)]]
    store.close()


def write_and_wait(url: str) -> None:
    open_store(url, 3, LONG, 1000).add([("u", event("i", 1))])
    Path(url.removeprefix("sqlite:")).with_name("done").touch()
    time.sleep(SOON)


def test_a_redis_that_goes_and_comes_back(own_server: RedisProcess) -> None:
    process = own_server
    store = open_store(f"redis://:secret@127.0.0.1:{process.port}/0?socket_timeout=20", 3, LONG, 1000)
    with pytest.raises(StoreUnavailable) as caught:  # a password that the server doesn't ask for
        store.check()
    assert "secret" not in str(caught.value)
    store = open_store(process.url(), 3, LONG, 1000)
    store.add([("u", event("i", 1))])
    process.kill()
    for call in (store.check, store.size, lambda: store.histories(["secret"]), lambda: store.forget(["secret"])):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert time.monotonic() - begun < 1 and "secret" not in str(caught.value)
        assert f"127.0.0.1:{process.port}" in str(caught.value)
    process.start()
    eventually(lambda: recovers(store))
    store.add([("u", event("i", 2))])
    assert store.histories(["u"]) == [[event("i", 2)]]  # the server keeps nothing in this test
    process.kill()
    process.start()
    assert store.histories(["u"]) == [[]]  # a connection that has broken meanwhile is opened again


def recovers(store: EventStore) -> bool:
    try:
        store.check()
    except StoreUnavailable:
        return False
    return True


def test_a_redis_that_hangs_is_not_waited_for(own_server: RedisProcess) -> None:
    process = own_server
    assert process.process is not None
    store = open_store(f"redis://127.0.0.1:{process.port}", 3, LONG, 1000)
    os.kill(process.process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            store.histories(["u"])
    assert time.monotonic() - begun < 2  # twenty waits would be as long; the breaker lets one call wait
    os.kill(process.process.pid, signal.SIGCONT)
    eventually(lambda: recovers(store))


def test_a_refusing_redis_names_no_user(own_server: RedisProcess) -> None:
    process = own_server
    store = open_store(process.url(), 3, LONG, 1000)
    redis.Redis(port=process.port).set("tt:events:secret", "not a sorted set")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE") as caught:
        store.histories(["secret"])
    assert "secret" not in str(caught.value)
    assert store.histories(["another"]) == [[]]  # a refusal is no reason to rest


@pytest.mark.parametrize(
    "url", ["", "redis", "sqlite:", "sqlite://x", "redis:x", "postgres://u:secret@h", "redis://h:port", "reddis://h"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(url, 3, LONG, 1000)
    assert "secret" not in str(caught.value) and "redis://HOST:PORT/DB" in str(caught.value)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    for path in (tmp_path / "events.db", tmp_path, tmp_path / "events.db" / "below"):
        with pytest.raises(UserError, match="can't be opened"):
            open_store(f"sqlite:{path}", 3, LONG, 1000)
    for numbers in ((0, LONG, 1), (1, 0, 1), (1, LONG, 0)):
        with pytest.raises(UserError, match="expected positive"):
            open_store(f"sqlite:{tmp_path / 'fine.db'}", *numbers)


def test_a_file_that_is_held_raises_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twotower.server.store import sqlite_store

    monkeypatch.setattr(sqlite_store, "BUSY_S", 0.01)
    store = open_store(f"sqlite:{tmp_path / 'events.db'}", 3, LONG, 1000)
    holder = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.add([("u", event("i", 1))])
    assert store.histories(["u"]) == [[]]  # who reads doesn't wait
    holder.execute("ROLLBACK")
    holder.close()
    store.add([("u", event("i", 1))])
    assert store.histories(["u"]) == [[event("i", 1)]]
    store.close()


def test_ids_are_no_patterns_and_no_commands(opened: Open) -> None:
    hostile = ["*", "u*", "u?", "[u]", "%", "_", "u\r\nFLUSHALL\r\n", "'; DROP TABLE events; --", '"; --', "u\0v",
               "u:v", "{u}", "\\", "ü", "\u202eu", "u" * 512]  # fmt: skip
    plain = ["u", "v", "u1"]
    store = opened()
    for item, user in enumerate([*hostile, *plain]):
        store.add([(user, event(user, 1, event_type=user)), (user, event(item, 2))])
    for item, user in enumerate([*hostile, *plain]):
        assert store.histories([user]) == [[event(user, 1, event_type=user), event(item, 2)]], user
    for number, user in enumerate(hostile):
        assert store.forget([user]) == 1
        assert store.histories([user]) == [[]]
        assert store.size() == len(hostile) + len(plain) - number - 1  # nobody else's
    assert sorted(store.recent(100)) == sorted(plain)
