"""Servers of a bundle on loopback, `mlflow models serve` and `twotower serve`, and a client with one connection."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HOST = "127.0.0.1"
LONGEST_START_S = 300.0
MLFLOW, LIVE = "mlflow models serve", "twotower serve"


class Server(NamedTuple):
    """A server that answers."""

    port: int
    process: psutil.Process  # the one that was started
    route: str  # of recommendations

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        family = [self.process, *self.process.children(recursive=True)]
        alive = [each for each in family if each.status() != psutil.STATUS_ZOMBIE]
        spawned = [each for each in alive if "spawn_main" in " ".join(each.cmdline())]
        return spawned or [max(family, key=lambda each: each.create_time())]


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes


def encoded(route: str, content: Any) -> bytes:
    """Return the bytes of a request, GET where there is no content."""
    body = b"" if content is None else json.dumps(content).encode()
    method = "GET" if content is None else "POST"
    head = f"{method} {route} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client:
    """One connection, for requests whose bytes are ready: it costs little beside what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def send(self, request: bytes) -> Reply:
        """Send a request and read its answer; raises OSError where the connection breaks."""
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self._port), timeout=120)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        read = b""
        while b"\r\n\r\n" not in read:
            read += self._more()
        head, _, body = read.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._more()
        return Reply(int(head[9:12]), body)

    def _more(self) -> bytes:
        assert self._socket is not None
        part = self._socket.recv(65_536)
        if not part:
            raise ConnectionError("the server has closed the connection")
        return part

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@contextmanager
def serve(kind: str, source: Path, log: Path, workers: int = 1, options: Sequence[object] = ()) -> Iterator[Server]:
    """Serve until the block ends; what the server prints goes to `log`.

    Args:
        kind: MLFLOW or LIVE.
        source: an MLflow model's folder, or a bundle.
        log: a new file.
        workers: processes of one thread each.
        options: more of the command line.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    words: list[object] = ["twotower.commands.main", "serve", source]
    if kind == MLFLOW:
        words = ["mlflow", "models", "serve", "--model-uri", source, "--env-manager", "local", "--host", HOST]
    settings = {"OMP_NUM_THREADS": "1", "UVICORN_ACCESS_LOG": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where uvicorn is
    command = [sys.executable, "-m", *words, "--port", port, "--workers", workers, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    server = Server(port, psutil.Process(process.pid), "/invocations" if kind == MLFLOW else "/recommend")
    try:
        end = time.monotonic() + LONGEST_START_S
        while not _answers(port, "/ping" if kind == MLFLOW else "/ready"):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"the server does not answer; its output ends:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(port: int, route: str) -> bool:
    with closing(Client(port)) as client:
        try:
            return client.send(encoded(route, None)).status == 200
        except (OSError, ValueError):
            return False
