"""A real redis-server, a child of the test on a free port of the loopback interface."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RedisProcess:
    """Starts with `start`, ends with `kill`; a second start has the same port, and the data that `save` has kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0, form: str = "redis") -> str:
        """With a long wait for answers, as a test's machine may be busy."""
        return f"{form}://127.0.0.1:{self.port}/{database}?socket_timeout=20&socket_connect_timeout=20"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "redis-server has ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("redis-server does not listen")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisProcess]:
    """Start a server for a block; where the machine has none, the test is skipped, but fails in CI."""
    if shutil.which("redis-server") is None:
        assert "CI" not in os.environ, "redis-server is missing; .ci/run installs it"
        pytest.skip("redis-server is not installed")
    server = RedisProcess(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
