"""A real `twotower serve`, a child of the test on a free port of the loopback interface."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]


class Reply(NamedTuple):
    """An answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(NamedTuple):
    """A running server; `log` is what it prints and logs."""

    port: int
    pid: int  # of the supervisor
    log: Path

    def ask(
        self, method: str, path: str, content: Any = None, token: str | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        """Send one request; `content` is bytes, or becomes JSON and says so."""
        is_raw = content is None or isinstance(content, bytes)
        body = content if is_raw else json.dumps(content).encode()
        sent = {} if is_raw else {"content-type": "application/json"}
        sent |= {} if token is None else {"authorization": f"Bearer {token}"}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {**sent, **headers})
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def send(self, data: bytes, wait_s: float = 20.0) -> bytes:
        """Send raw bytes on a connection of their own; return all that comes back until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                connection.sendall(data)
            return read_all(connection)

    def memory(self) -> int:
        """Bytes that the supervisor and its workers hold by themselves."""
        total = 0
        for pid in [self.pid, *_children(self.pid)]:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return total


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:  # closed with bytes of ours unread
        pass
    return b"".join(parts)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running_server(bundle: Path, folder: Path, *arguments: object) -> Iterator[Server]:
    """Serve a bundle for a block; the server ends with it.

    Args:
        bundle: its folder.
        folder: where the log goes.
        arguments: others of `twotower serve`.
    """
    log = folder / "server.log"
    command = [sys.executable, "-m", "twotower.commands.main", "serve", bundle, "--port", 0, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield Server(_port(process, log), process.pid, log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server does not end: {log.read_text()[-2000:]}") from None


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """Wait until a worker answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        printed = log.read_text().partition("http://")[2].partition(" ")[0]
        with suppress(OSError):
            port = int(printed.rpartition(":")[2] or 0)
            socket.create_connection(("127.0.0.1", port)).close()  # accepted once a worker listens
            return port
        time.sleep(0.02)
    raise AssertionError(f"the server does not answer: {log.read_text()}")
