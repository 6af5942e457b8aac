"""`twotower consume` as a process of its own, from Kafka's protocol and from a real Redis."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import redis
from kafka_brokers import KafkaBrokers, consume
from redis_process import RedisProcess, free_port, running_redis

from twotower.core.errors import UserError
from twotower.server.store.event_store import open_store
from twotower.server.streams import consume as command

TIME = 1_700_000_000_000
SOON = 60.0
Send = Callable[[list[bytes]], None]
# For a long run by hand, such as TWOTOWER_STREAM_EVENTS=1000000 TWOTOWER_STREAM_KILLS=10 pytest -s -k killed
EVENTS = int(os.environ.get("TWOTOWER_STREAM_EVENTS", "5000"))
KILLS = int(os.environ.get("TWOTOWER_STREAM_KILLS", "2"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    with running_redis(tmp_path_factory.mktemp("redis")) as process:
        yield process


@pytest.fixture(scope="module")
def brokers() -> KafkaBrokers:
    return KafkaBrokers()


@pytest.fixture(params=["kafka", "redis"])
def stream(request: pytest.FixtureRequest) -> tuple[str, Send]:
    """The url of a new stream, and what sends messages to it."""
    name = f"events-{random.randrange(2**40)}"
    if request.param == "kafka":
        brokers: KafkaBrokers = request.getfixturevalue("brokers")
        return brokers.url(name), lambda values: brokers.send(name, values)
    process: RedisProcess = request.getfixturevalue("server")

    def send(values: list[bytes]) -> None:
        pipeline = redis.Redis(port=process.port).pipeline(transaction=False)
        for value in values:
            pipeline.xadd(name, {"event": value})
        pipeline.execute()

    return f"redis://127.0.0.1:{process.port}/0?stream={name}", send


def value(number: int, users: int = 10, **others: Any) -> bytes:
    event = {"user_id": f"u{number % users}", "item_id": number, "timestamp": TIME + number, **others}
    return json.dumps(event).encode()


def run(url: str, store: str, folder: Path, *arguments: object) -> str:
    """Consume to the end, in this process; return what was printed."""
    folders = ("--archive", folder / "archive", "--dead-letters", folder / "dead-letters")
    words = (url, "--store", store, "--length", 1000, "--until-end", *folders, *arguments)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            assert command.main([str(word) for word in words]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return printed.getvalue()


def archived(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted((folder / "archive").glob("*.parquet"))], how="diagonal")


def dead_letters(folder: Path) -> list[Any]:
    files = (folder / "dead-letters").glob("*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def stored(url: str, users: int = 10) -> dict[str, list[int]]:
    store = open_store(url, 1000, 3600, 1000)
    names = [f"u{number}" for number in range(users)]
    histories = store.histories(names)
    store.close()
    return {
        name: [each["item_id"] for each in history] for name, history in zip(names, histories, strict=True) if history
    }


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_events_reach_store_and_archive_and_each_oddity_is_counted(stream: tuple[str, Send], tmp_path: Path) -> None:
    url, send = stream
    store = f"sqlite:{tmp_path / 'events.db'}"
    send([value(0), b"no JSON", value(1, consent=False), value(2, consent="yes", price=1.5), b'{"user_id": "u1"}'])
    printed = run(url, store, tmp_path)
    assert "5 messages" in printed and "2 events" in printed and "1 without consent" in printed
    assert "2 dead letters in" in printed and "item_id is missing: 1" in printed
    assert stored(store) == {"u0": [0], "u2": [2]}
    assert archived(tmp_path).sort("item_id")["price"].to_list() == [None, 1.5]
    dead = [
        json.loads(line) for file in (tmp_path / "dead-letters").iterdir() for line in file.read_text().splitlines()
    ]
    assert sorted(letter["value"] for letter in dead) == ["no JSON", '{"user_id": "u1"}']

    send([value(10)])
    printed = run(url, store, tmp_path)
    assert "1 messages" in printed and stored(store) == {"u0": [0, 10], "u2": [2]}
    printed = run(url, store, tmp_path, "--group", "another")  # reads all again
    assert "6 messages" in printed and "3 in the archive already" in printed
    assert stored(store) == {"u0": [0, 10], "u2": [2]}
    assert sorted(archived(tmp_path)["item_id"]) == [0, 2, 10]
    assert len(dead_letters(tmp_path)) == 2


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_does_everything_once(
    stream: tuple[str, Send], tmp_path: Path
) -> None:
    url, send = stream
    store, users, dice = f"sqlite:{tmp_path / 'events.db'}", max(10, EVENTS // 20), random.Random(7)
    rows = max(500, EVENTS // 50)  # of a file
    words = ("--store", store, "--archive", "archive", "--length", 1000, "--archive-rows", rows)

    def begin() -> "subprocess.Popen[str]":
        return consume(url, *words, cwd=tmp_path, quiet=True)

    def done() -> int:
        return sum(pq.read_metadata(file).num_rows for file in (tmp_path / "archive").glob("*.parquet"))

    chunk = min(EVENTS, 50_000)  # the mock brokers keep no more than 5 MB of a partition
    kills, sent, begun, process = 0, 0, time.monotonic(), None
    while sent < EVENTS:
        send([b"{" if n % 1000 == 999 else value(n, users) for n in range(sent, min(EVENTS, sent + chunk))])
        sent += chunk
        process = process or begin()
        while kills < KILLS * min(1, sent / EVENTS):
            before = done()
            eventually(lambda: done() > before or done() >= sent - sent // 1000 - rows)  # noqa: B023  # called at once
            time.sleep(dice.random() * 0.2)
            process.kill()
            process.wait()
            kills += 1
            process = begin()
        eventually(lambda: done() >= sent - sent // 1000 - chunk)  # noqa: B023  # called at once
    process.kill()
    process.wait()
    printed = run(url, store, tmp_path)
    print(f"\n{EVENTS:,} messages, {kills} kills: {time.monotonic() - begun:.0f} s\n{printed}")

    expected = [number for number in range(EVENTS) if number % 1000 != 999]
    assert sorted(archived(tmp_path)["item_id"]) == expected
    dead = [
        json.loads(line)["offset"]
        for file in (tmp_path / "dead-letters").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert len(dead) == EVENTS - len(expected)
    opened = open_store(store, 1000, 3600, 1000)
    histories = opened.histories([f"u{number}" for number in range(users)])
    assert [[each["item_id"] for each in history] for history in histories] == [
        [number for number in range(user, EVENTS, users) if number % 1000 != 999] for user in range(users)
    ]
    opened.close()
    assert kills == KILLS


@pytest.mark.parametrize("stream", ["redis"], indirect=True)
def test_sigterm_ends_with_everything_written_and_committed(stream: tuple[str, Send], tmp_path: Path) -> None:
    url, send = stream
    store = f"sqlite:{tmp_path / 'events.db'}"
    send([value(number) for number in range(50)])
    process = consume(url, "--store", store, "--archive", "archive", cwd=tmp_path)
    eventually(lambda: (tmp_path / "events.db").exists() and sum(map(len, stored(store).values())) == 50)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=SOON)
    assert process.returncode == 0 and "+50 rows" in printed
    assert sorted(archived(tmp_path)["item_id"]) == list(range(50))
    assert "0 messages" in run(url, store, tmp_path)


@pytest.mark.parametrize("stream", ["kafka"], indirect=True)
def test_a_store_that_is_away_is_waited_for(stream: tuple[str, Send], tmp_path: Path) -> None:
    url, send = stream
    send([value(number) for number in range(20)])
    with running_redis(tmp_path) as away:
        store = away.url()
        away.kill()
        words = ("--store", store, "--archive", "archive")
        process = consume(url, *words, cwd=tmp_path)
        assert process.stdout is not None and "Waiting" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)  # nothing is committed, and it says so
        printed, _ = process.communicate(timeout=SOON)
        assert process.returncode == 2 and "comes again" in printed and not (tmp_path / "archive").exists()

        process = consume(url, *words, "--until-end", cwd=tmp_path)
        assert process.stdout is not None and "Waiting" in process.stdout.readline()
        away.start()
        printed, _ = process.communicate(timeout=SOON)
        assert process.returncode == 0 and "reachable again" in printed and "20 events" in printed
        assert sum(map(len, stored(store).values())) == 20


@pytest.mark.slow
def test_a_broker_that_is_away_is_waited_for(tmp_path: Path) -> None:
    address = f"kafka://127.0.0.1:{free_port()}/events"
    process = consume(address, "--store", f"sqlite:{tmp_path / 'events.db'}", cwd=tmp_path)
    assert process.stdout is not None and "Waiting" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert "doesn't answer" in process.communicate(timeout=SOON)[0] and process.returncode == 2


def test_a_redis_stream_that_was_trimmed_too_early_is_noticed(server: RedisProcess, tmp_path: Path) -> None:
    client = redis.Redis(port=server.port)
    url, store = f"valkey://127.0.0.1:{server.port}/0?stream=trimmed", f"sqlite:{tmp_path / 'events.db'}"
    for number in range(5):
        client.xadd("trimmed", {"event": value(number)})
    assert "lost" not in run(url, store, tmp_path)
    for number in range(5, 15):
        client.xadd("trimmed", {"event": value(number)})
    client.xtrim("trimmed", maxlen=3, approximate=False)
    printed = run(url, store, tmp_path)
    assert "3 messages" in printed and "7 lost" in printed
    assert client.xinfo_groups("trimmed")[0]["lag"] == 0


def test_entries_without_the_field_are_dead_letters(server: RedisProcess, tmp_path: Path) -> None:
    redis.Redis(port=server.port).xadd("odd", {"user_id": "u", "item_id": "i"})
    printed = run(f"redis://127.0.0.1:{server.port}/0?stream=odd", f"sqlite:{tmp_path / 'e.db'}", tmp_path)
    assert "user_id is missing: 1" in printed


def test_what_can_not_be_read_is_said(brokers: KafkaBrokers, server: RedisProcess, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'events.db'}"
    (tmp_path / "odd.properties").write_text("# ours\nno.such.property=secret\n")
    (tmp_path / "worse.properties").write_text("security.protocol\n")
    for arguments, expected in (
        (["events.csv"], "a stream is kafka://"),
        ([f"redis://127.0.0.1:{server.port}/0"], "a stream is kafka://"),
        ([f"redis://127.0.0.1:{server.port}/0?stream=none"], "stream none"),
        ([brokers.url("t"), "--properties", str(tmp_path / "odd.properties")], "no.such.property"),
        ([brokers.url("t"), "--properties", str(tmp_path / "worse.properties")], "entry 1"),
        ([brokers.url("t"), "--properties", str(tmp_path / "none")], "can't be read"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            run(*arguments[:1], store, tmp_path, *arguments[1:])
        assert "secret" not in str(caught.value)
