"""`twotower serve` as a process: workers that end, models that change, stores that are away."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pyarrow.parquet as pq
import pytest
from live_server import LiveServer, answers, live_server
from redis_process import running_redis

from twotower.serving.bundle_format import MANIFEST_FILE
from twotower.serving.retriever import Retriever
from twotower.serving.updates import delta
from twotower.serving.updates.versions import rollback

IDS = list(range(1, 31))
WEIGHTS = {"price": [float(number) for number in IDS]}


@pytest.fixture
def bundle(make_bundle: Any) -> Path:
    return make_bundle(IDS, columns=WEIGHTS)


def workers_of(server: LiveServer) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.Error):  # it ends meanwhile
            if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def ids(reply: Any) -> list[int]:
    return [item["item_id"] for item in reply.json()["items"]]


class Load:
    """Asks for the same list in a thread until the block ends; a connection that breaks is tried again."""

    def __init__(self, server: LiveServer) -> None:
        self.server, self.seen, self.wrong, self.retries = server, set(), [], 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stopped.is_set():
            try:
                reply = self.server.post("/recommend", {"history": [1, 2], "k": 5})
            except (OSError, HTTPException):
                self.retries += 1
                continue
            if reply.status != 200:
                self.wrong.append(reply)
            else:
                self.seen.add((reply.json()["model"], tuple(ids(reply))))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def model_of(bundle: Path) -> str:
    return json.loads((bundle / MANIFEST_FILE).read_text())["checksum"][:16]


def expected(bundle: Path) -> tuple[str, tuple[int, ...]]:
    return model_of(bundle), tuple(Retriever.load(bundle).recommend([[1, 2]], 5).ids[0])


@pytest.mark.slow
def test_versions_change_and_workers_end_under_load_without_a_wrong_answer(bundle: Path) -> None:
    with live_server(bundle, "--workers", 2) as server:
        truth = {expected(bundle)}
        with Load(server) as load:
            for number in range(4):
                first = ids(server.post("/recommend", {"history": [1, 2], "k": 5}))[0]
                delta.remove(bundle, [first])
                truth.add(expected(bundle))
                server.until(lambda: server.get("/model").json()["models"][0]["model"] == model_of(bundle))
                if number % 2:
                    before = {worker.pid for worker in workers_of(server)}
                    workers_of(server)[0].kill()
                    server.until(lambda before=before: len({w.pid for w in workers_of(server)} - before) == 1)
            rollback(bundle, 1)
            server.until(lambda: server.get("/model").json()["models"][0]["version"] == 1)
        assert not load.wrong
        assert load.seen <= truth and len(load.seen) >= 2, load.seen - truth
        server.until(lambda: server.metric("twotower_swaps_total") >= 5)
        server.until(lambda: server.metric(f'twotower_model_info{{bucket="champion",model="{model_of(bundle)}"') == 1)


def test_workers_share_users_and_a_bad_version_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    impressions = tmp_path / "impressions"
    with live_server(bundle, "--workers", 2, "--impressions", impressions) as server:
        for number in range(8):  # connections go to one worker or the other
            event = {"user_id": "u", "item_id": 1 + number, "timestamp": 1_700_000_000_000 + number}
            assert server.post("/events", {"events": [event]}).json()["stored"] == 1
            assert len(server.get("/users/u").json()["events"]) == number + 1
        before = model_of(bundle)
        damaged = json.loads((bundle / MANIFEST_FILE).read_text()) | {"checksum": "0" * 64}
        good = (bundle / MANIFEST_FILE).read_bytes()
        other = bundle / "other"
        other.write_text(json.dumps(damaged))
        other.replace(bundle / MANIFEST_FILE)
        server.until(lambda: server.metric('twotower_swaps_total{outcome="refused"}') >= 1)
        assert server.post("/recommend", {"user_id": "u", "k": 3}).json()["model"] == before
        other.write_bytes(good)
        other.replace(bundle / MANIFEST_FILE)
        assert server.post("/rollback", {}).status == 400  # there is nothing before
        changed = server.ask("DELETE", "/items", {"item_ids": [30, 99]}).json()
        assert (changed["version"], changed["removed"], changed["unknown"]) == (2, 1, [99])
        server.until(lambda: server.ask("GET", "/items/30").status == 404)
        same = server.post("/items", {"items": [{"item_id": 1, "price": 9.0}]}).json()
        assert (same["version"], same["ignored"]) == (2, ["price"])  # no feature of this bundle's model
        server.post("/rollback", {})
        server.until(lambda: server.ask("GET", "/items/30").status == 200)
        assert answers(server)
    rows = pq.read_table(impressions).to_pylist()
    assert [row["user"] for row in rows] == ["u"] and len(rows[0]["item_ids"]) == 3


def test_a_store_that_is_away_degrades_answers_and_says_so(bundle: Path, tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis, live_server(bundle, "--store", redis.url()) as server:
        event = {"user_id": "u", "item_id": 2, "timestamp": 1_700_000_000_000}
        assert server.post("/events", {"events": [event]}).status == 200
        assert not server.post("/recommend", {"user_id": "u", "k": 3}).json()["is_fallback"]
        redis.kill()
        answer = server.post("/recommend", {"user_id": "u", "history": [2], "k": 3}).json()
        assert answer["degraded"] == ["user events are not reachable"] and not answer["is_fallback"]
        lost = server.post("/events", {"events": [event]})
        assert lost.status == 503 and "nothing was changed" in lost.json()["error"]["message"]
        assert server.get("/ready").json()["status"] == "degraded"
        redis.start()
        server.until(lambda: server.post("/events", {"events": [event]}).status == 200)
        assert "degraded" not in server.post("/recommend", {"user_id": "u", "k": 3}).json()


def serve(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "twotower.commands.main", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_refuses_at_the_start_what_can_not_work(bundle: Path, tmp_path: Path) -> None:
    (bundle / "golden.json").write_text("{}")
    damaged = serve(bundle, "--port", 0)
    assert damaged.returncode and "golden.json has another SHA-256" in damaged.stderr
    for words, message in (
        ([tmp_path], "is not a bundle"),
        ([bundle, "--host", "0.0.0.0"], "can be reached from other machines"),
        ([bundle, "--share", 0.5], "expected 0 to 1, and a --challenger"),
        ([bundle, "--tokens", tmp_path / "none.json"], "is missing"),
        (["models:/shop"], "names no alias"),
        ([bundle, "--store", "foo"], "a store of user events is sqlite:PATH"),
    ):
        refused = serve(*words)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused


@pytest.mark.slow
def test_drains_before_it_ends(bundle: Path) -> None:
    with live_server(bundle) as server, Load(server) as load:
        time.sleep(0.3)
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.wait(60)
    assert load.seen == {expected(bundle)} and not load.wrong


@pytest.mark.slow
def test_workers_end_with_a_supervisor_that_is_killed(bundle: Path) -> None:
    command = [sys.executable, "-m", "twotower.commands.main", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        line = supervisor.stdout.readline()
        family: list[psutil.Process] = []
        end = time.monotonic() + 60
        while '"/ready"' not in line and time.monotonic() < end:  # its worker answers
            with suppress(OSError):
                urlopen(f"{line.split(' ', 1)[0]}/ready", timeout=10).close()
                family = psutil.Process(supervisor.pid).children()
                break
        supervisor.kill()
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert gone and not alive
