"""User events in one Redis or Valkey server.

Keys: `tt:events:USER` is a sorted set of canonical JSON by timestamp, `tt:users` one of users by the time of their last
addition, `tt:erased:USER` the time of an erasure. Each change is one script, which the server runs as a whole; times
are the server's. Another shop in the same server takes another database number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from twotower.core.errors import UserError
from twotower.server.store.event_store import Breaker, Event, StoreUnavailable, by_user, key_of

CONNECT_S, ANSWER_S = 0.05, 0.1  # socket_connect_timeout=... and socket_timeout=... in the url set others
CHUNK = 500  # events a script: the server does nothing else meanwhile, for a few milliseconds
EVENTS, USERS, ERASED = "tt:events:", "tt:users", "tt:erased:"
NOW = "local t = redis.call('TIME'); local now = t[1] * 1000000 + t[2]"
ADD = f"""
{NOW}
local length, expiry_ms, max_users = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local at, position = 4, 0
while at <= #ARGV do
  local user, count = ARGV[at], tonumber(ARGV[at + 1])
  local key, erased = '{EVENTS}' .. user, tonumber(redis.call('GET', '{ERASED}' .. user) or -1)
  local added = false
  for i = at + 2, at + 2 * count, 2 do
    if tonumber(ARGV[i]) > erased then
      redis.call('ZADD', key, ARGV[i], ARGV[i + 1])
      added = true
    end
  end
  if added then
    redis.call('ZREMRANGEBYRANK', key, 0, -length - 1)
    redis.call('PEXPIRE', key, expiry_ms)
    redis.call('ZADD', '{USERS}', string.format('%.0f', now + position), user)
    position = position + 1
  end
  at = at + 2 + 2 * count
end
redis.call('ZREMRANGEBYSCORE', '{USERS}', '-inf', string.format('%.0f', now - expiry_ms * 1000))
local excess = redis.call('ZCARD', '{USERS}') - max_users
if excess > 0 then
  local gone = redis.call('ZPOPMIN', '{USERS}', excess)
  for i = 1, #gone, 2 do redis.call('UNLINK', '{EVENTS}' .. gone[i]) end
end
"""
FORGET = f"""
{NOW}
local had = 0
for i = 2, #ARGV do
  had = had + redis.call('DEL', '{EVENTS}' .. ARGV[i])
  redis.call('ZREM', '{USERS}', ARGV[i])
  redis.call('SET', '{ERASED}' .. ARGV[i], string.format('%.0f', math.floor(now / 1000)), 'PX', ARGV[1])
end
return had
"""
SIZE = f"{NOW}; return redis.call('ZCOUNT', '{USERS}', string.format('(%.0f', now - ARGV[1] * 1000), '+inf')"
RECENT = f"""
{NOW}
local oldest = string.format('(%.0f', now - ARGV[1] * 1000)
return redis.call('ZREVRANGEBYSCORE', '{USERS}', '+inf', oldest, 'LIMIT', 0, ARGV[2])
"""


class RedisStore:
    """An EventStore in Redis or Valkey; see `open_store` for the arguments. It may be unreachable when it is opened.

    >>> store = RedisStore("redis://localhost:1/0", length=50, expiry_s=86_400, max_users=1000)
    >>> store.check()
    Traceback (most recent call last):
    twotower.server.store.event_store.StoreUnavailable: redis://localhost:1/0 is not reachable (ConnectionError)...
    """

    def __init__(self, url: str, length: int, expiry_s: float, max_users: int) -> None:
        self._length, self._expiry_ms, self._max_users = length, max(1, int(expiry_s * 1000)), max_users
        self._client, place = connect(url, ANSWER_S)
        self._place = place
        self._breaker = Breaker(f"{place} was not reachable a moment ago; it is asked again soon", place)
        scripts = (ADD, FORGET, SIZE, RECENT)
        self._adding, self._forgetting, self._counting, self._listing = map(self._client.register_script, scripts)

    def add(self, events: Sequence[tuple[str, Event]]) -> None:
        """See EventStore."""
        arguments: list[Any] = []
        waiting = 0
        for user, added in by_user(events).items():
            for start in range(0, len(added), CHUNK):
                part = added[start : start + CHUNK]
                arguments += [user, len(part), *(value for event in part for value in event)]
                waiting += len(part)
                if waiting >= CHUNK:
                    self._add(arguments)
                    arguments, waiting = [], 0
        if arguments:
            self._add(arguments)

    def _add(self, arguments: list[Any]) -> None:
        self._call(lambda: self._adding(args=[self._length, self._expiry_ms, self._max_users, *arguments]))

    def histories(self, users: Sequence[str]) -> list[list[Event]]:
        """See EventStore."""
        keys = [EVENTS.encode() + key_of(user) for user in users]
        if not keys:
            return []

        def ask() -> list[list[bytes]]:
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.zrange(key, 0, -1)
            answers = pipeline.execute(raise_on_error=False)  # whose error would quote the command
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return list(answers)

        return [[orjson.loads(line) for line in lines] for lines in self._call(ask)]

    def recent(self, limit: int) -> list[str]:
        """See EventStore."""
        if limit < 1:
            return []  # to Redis a negative number is all of them
        users = self._call(lambda: self._listing(args=[self._expiry_ms, limit]))
        return [user.decode() for user in users]

    def forget(self, users: Sequence[str]) -> int:
        """See EventStore."""
        return int(self._call(lambda: self._forgetting(args=[self._expiry_ms, *map(key_of, users)])))

    def size(self) -> int:
        """See EventStore."""
        return int(self._call(lambda: self._counting(args=[self._expiry_ms])))

    def check(self) -> None:
        """See EventStore."""
        self._call(self._client.ping)

    def close(self) -> None:
        """See EventStore."""
        self._client.close()

    def _call(self, ask: Callable[[], Any]) -> Any:
        """Ask the server; of a refusal only the first word is told, as it may quote a command and so a user."""
        with self._breaker.guard((redis.RedisError, OSError)):
            try:
                return ask()
            except redis.ResponseError as error:
                code = [*str(error).split(maxsplit=1), "ERR"][0]
                message = f"{self._place} refused a command ({code}); see the server's log and its maxmemory"
                raise StoreUnavailable(message) from None


def connect(url: str, answer_s: float) -> tuple["redis.Redis", str]:
    """Return a client and the server's url without password; nothing is sent before the first call.

    A connection that a restart of the server has broken is opened again once; a server that is slow is not asked again.

    Args:
        url: redis://, rediss://, valkey://, valkeys:// or unix://; its options are those of redis-py.
        answer_s: for which an answer is waited for, in seconds.

    Raises:
        UserError: an url that redis-py does not understand.
    """
    form = url.partition("://")[0]
    understood = {"valkey": "redis", "valkeys": "rediss"}.get(form, form) + url[len(form) :]
    try:
        client = redis.Redis.from_url(
            understood,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=answer_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            protocol=2,  # answers to scripts and sorted sets have the same types in Redis 6, 7, 8 and Valkey
        )
    except ValueError as error:
        raise UserError(f"{form}://...: {error}; expected {form}://HOST:PORT/DB") from None
    given = client.connection_pool.connection_kwargs
    host = given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
    return client, f"{form}://{host}" + ("" if form == "unix" else f"/{given.get('db', 0)}")
