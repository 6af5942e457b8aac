"""`mlflow models serve` on loopback, and a client that keeps one connection open."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HOST = "127.0.0.1"
LONGEST_START_S = 300.0


class Server(NamedTuple):
    """A server that answers."""

    port: int
    process: psutil.Process  # the one that answers


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes


class Client:
    """One connection to a server, opened again when the server has closed it."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """Send a well-formed request."""
        return self.post(json.dumps(request).encode())

    def ping(self) -> Reply:
        """Ask whether the server is there."""
        return self._send("GET", "/ping", None, {})

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Send any body; JSON where the headers do not say otherwise."""
        headers = {"Content-Type": "application/json"} if headers is None else headers
        try:
            return self._send("POST", "/invocations", body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):  # the server has closed it: it was idle
            self.close()
            return self._send("POST", "/invocations", body, headers)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        return Reply(response.status, response.read())


@contextmanager
def serve(model: Path | str, log: Path) -> Iterator[Server]:
    """Serve an MLflow model (a folder or a URI) with one worker of one thread; what it prints goes to `log`."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
    settings = {"OMP_NUM_THREADS": "1", "UVICORN_ACCESS_LOG": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where uvicorn is
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port)],
            env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + LONGEST_START_S
        while not _answers(port):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"the server does not answer; its output ends:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield Server(port, max(family, key=lambda member: member.create_time()))  # uvicorn, started by the command line
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(port: int) -> bool:
    with closing(Client(port)) as client:
        try:
            return client.ping().status == 200
        except OSError:
            return False
