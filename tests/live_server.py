"""A real `twotower serve` of a test, on a free port of the loopback interface."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import psutil

LONGEST_S = 60.0  # for anything to happen


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class LiveServer:
    """A process, and requests to it; each has a connection of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, output: IO[str]) -> None:
        self.process, self.port, self._output = process, port, output

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Reply:
        """`body` is bytes, or becomes JSON and says so."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_S)
        try:
            is_raw = body is None or isinstance(body, bytes)
            content = body if is_raw else json.dumps(body)
            given = {**({} if is_raw else {"Content-Type": "application/json"}), **(headers or {})}
            given |= {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request(method, quote(path, safe="/?&=%"), content, given)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; `name` may end in some of them."""
        lines = self.get("/metrics").content.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def send(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; return all that comes back until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=LONGEST_S) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                connection.sendall(data)
            return read_all(connection)

    def log(self) -> str:
        """What the server has printed and logged so far."""
        return os.pread(self._output.fileno(), 2**30, 0).decode()

    def memory(self) -> int:
        """Bytes that the supervisor and its workers have for themselves."""
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()]
        return sum(process.memory_full_info().uss for process in processes)

    def until(self, is_so: Any) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + LONGEST_S
        while not is_so():
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    with suppress(ConnectionResetError):  # closed with bytes of ours unread
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def answers(server: LiveServer) -> bool:
    try:
        return server.ask("GET", "/health").status == 200
    except OSError:
        return False


@contextmanager
def live_server(bundle: Path | str, *options: object, **environment: str) -> Iterator[LiveServer]:
    """Serve for a block; the server must end by itself when it is asked to."""
    words = [sys.executable, "-m", "twotower.commands.main", "serve", bundle, "--port", 0, *options]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [str(word) for word in words], stdout=output, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        try:
            server = LiveServer(process, _port(process, output), output)
            server.until(lambda: answers(server))
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LONGEST_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert process.returncode in (0, -signal.SIGTERM)


def _port(process: "subprocess.Popen[str]", output: IO[str]) -> int:
    """From the line that names the address."""
    end = time.monotonic() + LONGEST_S
    while True:
        text = os.pread(output.fileno(), 10_000, 0).decode()
        if found := re.search(r"http://127\.0\.0\.1:(\d+) ", text):
            return int(found[1])
        assert time.monotonic() < end and process.poll() is None, text
        time.sleep(0.02)
