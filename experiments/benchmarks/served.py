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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HOST = "127.0.0.1"
LONGEST_START_S = 300.0


class Server(NamedTuple):
    """A server that answers."""

    port: int
    process: psutil.Process | None  # None: somebody else's


class Reply(NamedTuple):
    """An answer."""

    status: int
    body: bytes


class Client:
    """One connection to a server, opened again when the server has closed it."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """A request as it should be."""
        return self.post(json.dumps(request).encode())

    def ping(self) -> Reply:
        """Whether it is there."""
        self._connection.request("GET", "/ping")
        response = self._connection.getresponse()
        return Reply(response.status, response.read())

    def post(self, body: bytes, headers: Mapping[str, str] | None = None, path: str = "/invocations") -> Reply:
        """Any body; JSON where the headers do not say otherwise."""
        headers = {"Content-Type": "application/json"} if headers is None else headers
        try:
            return self._post(body, headers, path)
        except (ConnectionError, http.client.RemoteDisconnected):  # the server has closed it: it was idle
            self.close()
            return self._post(body, headers, path)

    def _post(self, body: bytes, headers: Mapping[str, str], path: str) -> Reply:
        self._connection.request("POST", path, body, dict(headers))
        response = self._connection.getresponse()
        return Reply(response.status, response.read())

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


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
            env={**os.environ, **settings},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await(process, port, log)
        yield Server(port, _worker(process.pid))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _await(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + LONGEST_START_S
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise RuntimeError(f"the server does not answer; it says:\n{log.read_text()[-3000:]}")


def _worker(pid: int) -> psutil.Process:
    """The process that answers: the one with uvicorn, which the command line starts."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return max(family, key=lambda process: process.create_time())
