"""A real `twotower serve` of a test, on a free port of the loopback interface."""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

LONGEST_S = 60.0  # for anything to happen


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class LiveServer:
    """A process, and requests to it; each has a connection of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_S)
        try:
            content = None if body is None else json.dumps(body)
            given = {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
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

    def until(self, is_so: Any) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + LONGEST_S
        while not is_so():
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)


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
            [str(word) for word in words], stdout=output, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        try:
            server = LiveServer(process, _port(process, output))
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
    """From the first line that the server prints."""
    end = time.monotonic() + LONGEST_S
    while "\n" not in (text := os.pread(output.fileno(), 1000, 0).decode()):
        assert time.monotonic() < end and process.poll() is None, text
        time.sleep(0.02)
    return int(text.split(" ", 1)[0].rsplit(":", 1)[1])
