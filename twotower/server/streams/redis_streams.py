"""Events from a Redis or Valkey stream: entries with one field, `event`.

Its group keeps one position, as an offset of Kafka's: `XINFO GROUPS` shows it. One process reads the whole stream.
"""

from typing import Any

import orjson
import redis

from twotower.core.errors import UserError
from twotower.server.store.redis_store import connect
from twotower.server.streams.messages import Message
from twotower.server.streams.source import StreamUnavailable

FIELD = b"event"
ANSWER_S = 5.0  # longer than a read waits


class RedisSource:
    """A stream as a Source; see `open_source` for the arguments.

    >>> RedisSource("redis://localhost:1/0", "events", "twotower")
    Traceback (most recent call last):
    twotower.server.streams.source.StreamUnavailable: redis://localhost:1/0 is not reachable (ConnectionError).
    """

    def __init__(self, url: str, stream: str, group: str) -> None:
        self._client, self._place = connect(url, ANSWER_S)
        self._stream, self._group = stream, group
        self._end = False
        self.lost = 0
        groups = {each["name"].decode(): each for each in self._ask("xinfo_groups", stream)}
        if group not in groups:
            self._ask("xgroup_create", stream, group, id="0", entries_read=0)
            groups[group] = {"last-delivered-id": b"0-0", "entries-read": 0}
        self._last: bytes = groups[group]["last-delivered-id"]
        read = groups[group]["entries-read"]
        self._read = self._gone() if read is None else int(read)  # None: another program has set the position
        self._count_lost()

    def read(self, limit: int, wait_s: float) -> list[Message]:
        """See Source."""
        wait_ms = max(1, int(wait_s * 1000))  # 0 would be for ever
        answer = self._ask("xread", {self._stream: self._last}, count=limit, block=wait_ms)
        entries = answer[0][1] if answer else []
        self._end = self._end or len(entries) < limit
        if entries:
            self._last = entries[-1][0]
            self._read += len(entries)
        return [self._message(entry, fields) for entry, fields in entries]

    def _message(self, entry: bytes, fields: dict[bytes, bytes] | None) -> Message:
        time, _, number = entry.decode().partition("-")
        found = fields or {}
        value = found.get(FIELD)
        if value is None and found:  # a dead letter, with all that came
            texts = {key.decode("utf-8", "replace"): text.decode("utf-8", "replace") for key, text in found.items()}
            value = orjson.dumps({f"fields, none of them '{FIELD.decode()}'": orjson.dumps(texts).decode()})
        return Message(self._stream, f"{time:>020}-{number:>020}", value, int(time))

    def commit(self) -> None:
        """See Source."""
        self._ask("xgroup_setid", self._stream, self._group, self._last, entries_read=self._read)
        self._count_lost()

    def at_end(self) -> bool:
        """See Source."""
        return self._end

    def lag(self) -> int:
        """See Source."""
        return max(0, int(self._ask("xinfo_stream", self._stream)["entries-added"]) - self._read)

    def close(self) -> None:
        """See Source."""
        self._client.close()

    def _count_lost(self) -> None:
        """Count entries that were trimmed or deleted before they were read."""
        missed = max(0, self._gone() - self._read)
        self.lost += missed
        self._read += missed

    def _gone(self) -> int:
        """How many entries were there once."""
        stream = self._ask("xinfo_stream", self._stream)
        if "entries-added" not in stream:
            raise UserError(f"{self._place} is older than Redis 7, or Valkey; expected one that counts its entries")
        return int(stream["entries-added"]) - int(stream["length"])

    def _ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._client, command)(*arguments, **options)
        except redis.ResponseError as error:
            raise UserError(
                f"{self._place}, stream {self._stream}: {error}; the first XADD of an event makes a stream"
            ) from None
        except (redis.RedisError, OSError) as error:
            raise StreamUnavailable(f"{self._place} is not reachable ({type(error).__name__}).") from None
