"""What `twotower consume` asks of a stream, and which streams there are."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from twotower.core.errors import UserError
from twotower.server.streams.messages import Message

FORMS = "kafka://HOST:PORT[,HOST:PORT]/TOPIC or redis://HOST:PORT/DB?stream=NAME"


class StreamUnavailable(UserError):
    """The stream can't be reached; the same call may succeed later.

    >>> raise StreamUnavailable("kafka://localhost:9092 doesn't answer")
    Traceback (most recent call last):
    twotower.server.streams.source.StreamUnavailable: kafka://localhost:9092 doesn't answer
    """


class Source(Protocol):
    """A stream from where its group has stopped; read by one process, whole. Each method may raise StreamUnavailable.

    Two processes that read for one group both get everything, and do no harm: the effects of a message are the same.

    >>> open_source("file.csv", "twotower", {})
    Traceback (most recent call last):
    twotower.core.errors.UserError: a stream is kafka://HOST:PORT[,HOST:PORT]/TOPIC or ...
    """

    lost: int  # messages that the stream had removed before they were read

    def read(self, limit: int, wait_s: float) -> list[Message]:
        """Return the next messages: those that are there, or, where none is, the first within `wait_s`."""

    def commit(self) -> None:
        """Let the group go on after all that was read."""

    def at_end(self) -> bool:
        """Whether all was read that was there at some time since the start."""

    def lag(self) -> int:
        """Return the number of messages that wait."""

    def close(self) -> None:
        """Give connections back."""


def open_source(url: str, group: str, properties: Mapping[str, str]) -> Source:
    """Open a stream where the group has stopped; at its beginning for a new group.

    Args:
        url: kafka://HOST:PORT[,HOST:PORT]/TOPIC or redis://HOST:PORT/DB?stream=NAME (rediss, valkey, valkeys, unix).
        group: whose position the stream keeps.
        properties: librdkafka's own, for Kafka: security.protocol and the like.

    Raises:
        UserError: another url, or no such topic or stream.
        StreamUnavailable: the server doesn't answer.
    """
    parts = urlsplit(url)
    if parts.scheme == "kafka" and parts.netloc and parts.path.strip("/"):
        from twotower.server.streams.kafka import KafkaSource

        return KafkaSource(parts.netloc, parts.path.strip("/"), group, properties)
    options = dict(parse_qsl(parts.query))
    stream = options.pop("stream", None)
    if parts.scheme in ("redis", "rediss", "valkey", "valkeys", "unix") and stream:
        from twotower.server.streams.redis_streams import RedisSource

        return RedisSource(parts._replace(query=urlencode(options)).geturl(), stream, group)
    raise UserError(f"a stream is {FORMS}; got {parts.scheme or 'no form'}")
