"""Brokers that speak Kafka's protocol, within the test's process: librdkafka's own mock cluster."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka import Producer

ROOT = Path(__file__).parents[1]


class KafkaBrokers:
    """A cluster that lives as long as this object; topics appear with their first message, with four partitions."""

    def __init__(self) -> None:
        self._producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "replaced", "log_level": 0})
        brokers = self._producer.list_topics(timeout=30).brokers.values()
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def send(self, topic: str, values: Iterable[bytes | None]) -> None:
        """Send messages, spread over the partitions."""
        for number, value in enumerate(values):
            if number % 10_000 == 9_999:
                self._producer.flush(30)
            self._producer.produce(topic, value, key=str(number))
        assert self._producer.flush(60) == 0

    def url(self, topic: str) -> str:
        return f"kafka://{self.address}/{topic}"


def consume(*arguments: object, cwd: Path, quiet: bool = False) -> "subprocess.Popen[str]":
    """Start `twotower consume` as a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twotower.commands.main import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "consume", *map(str, arguments)]
    out = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(words, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, text=True)
