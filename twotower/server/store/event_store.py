"""The store of user events that the server, its workers and `twotower consume` share.

An event is kept as its canonical JSON: sorted keys, no spaces, UTF-8. A user's history is a set of these, ordered by
(timestamp, JSON), of which the newest `length` stay: so events can be added again, and in any order, with one result.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import orjson

from twotower.core.errors import UserError, nearest
from twotower.core.schema import TIMESTAMP

Event = dict[str, Any]  # item_id, timestamp (milliseconds since 1970), and single JSON values such as event_type
FORMS = ("sqlite", "memory", "redis", "rediss", "valkey", "valkeys", "unix")
LAST_TIMESTAMP = 2**53  # up to here whole numbers are exact in Redis, too
PAUSE_S = 1.0  # for which calls fail at once after a failure


class StoreUnavailable(UserError):
    """The store can't be reached, or doesn't take the events; the same call may succeed later.

    >>> raise StoreUnavailable("redis://localhost:6379/0 is not reachable")
    Traceback (most recent call last):
    twotower.server.store.event_store.StoreUnavailable: redis://localhost:6379/0 is not reachable
    """


class EventStore(Protocol):
    """Histories of users; safe to share between threads. A process that forks opens its own.

    Each method may raise StoreUnavailable, soon; and UserError for what no store can hold. Messages never name a user.

    >>> store = open_store("memory:events.db", length=2, expiry_s=3600, max_users=1000)
    >>> store.add([("u", {"item_id": item, "timestamp": item}) for item in (3, 1, 2)])
    >>> store.histories(["u", "unknown"])
    [[{'item_id': 2, 'timestamp': 2}, {'item_id': 3, 'timestamp': 3}], []]
    """

    def add(self, events: Sequence[tuple[str, Event]]) -> None:
        """Add events of users, in any order; what is stored already stays as it is.

        Of each user the newest `length` events stay. Users seen least recently beyond `max_users` leave; a user's
        events expire `expiry_s` after the last that was added. Events that are not newer than the user's erasure are
        ignored.
        """

    def histories(self, users: Sequence[str]) -> list[list[Event]]:
        """Return the events of each user, oldest first, in one round trip; an empty list for an unknown one."""

    def recent(self, limit: int) -> list[str]:
        """Return at most `limit` users, those to whom events were added last first."""

    def forget(self, users: Sequence[str]) -> int:
        """Erase users at once, and return how many had events; for `expiry_s` older events of theirs are ignored."""

    def size(self) -> int:
        """Return the number of users with events."""

    def check(self) -> None:
        """Raise StoreUnavailable if the store doesn't answer."""

    def close(self) -> None:
        """Give connections and files back."""


def open_store(url: str, length: int, expiry_s: float, max_users: int) -> EventStore:
    """Open a store; it may be unreachable at that time.

    Args:
        url: "sqlite:PATH", a file that survives restarts; "memory:PATH", the same file store that a power cut may take
            along, for a folder in memory; or redis://HOST:PORT/DB, rediss://, valkey://, valkeys:// or unix://PATH.
        length: events of a user that stay.
        expiry_s: after which a user's events go, unless another came.
        max_users: that stay.

    Raises:
        UserError: another url, a number below 1, or a file that can't be opened.
    """
    if length < 1 or expiry_s <= 0 or max_users < 1:
        raise UserError(f"length={length}, expiry_s={expiry_s}, max_users={max_users}; expected positive numbers")
    form, colon, place = url.partition(":")
    if form in ("sqlite", "memory") and place and not place.startswith("//"):
        from twotower.server.store.sqlite_store import SqliteStore

        return SqliteStore(place, length, expiry_s, max_users, durable=form == "sqlite")
    if form in FORMS[2:] and place.startswith("//"):
        from twotower.server.store.redis_store import RedisStore

        return RedisStore(url, length, expiry_s, max_users)
    got = f"{form}{colon}..." if colon else "no form"  # what follows may hold a password
    raise UserError(
        f"a store of user events is sqlite:PATH, memory:PATH, redis://HOST:PORT/DB, rediss://..., valkey://..., "
        f"valkeys://... or unix://PATH; got {got}{nearest(form, FORMS)}"
    )


def canonical(event: Event) -> tuple[int, bytes]:
    """Return an event's timestamp and its canonical JSON.

    >>> canonical({"timestamp": 5, "item_id": "a"})
    (5, b'{"item_id":"a","timestamp":5}')

    Raises:
        UserError: a timestamp that is no whole number from 0 to 2**53, or values that JSON can't hold.
    """
    timestamp = event.get(TIMESTAMP)
    if not isinstance(timestamp, int) or isinstance(timestamp, bool) or not 0 <= timestamp <= LAST_TIMESTAMP:
        raise UserError(f"an event's timestamp is no whole number from 0 to {LAST_TIMESTAMP}: milliseconds since 1970")
    try:
        return timestamp, orjson.dumps(event, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        raise UserError("an event holds a value that is no JSON; expected texts, numbers, true, false") from None


def key_of(user: str) -> bytes:
    """Return a user's id as UTF-8; raises UserError where it is half a surrogate pair."""
    try:
        return user.encode()
    except UnicodeEncodeError:
        raise UserError("a user's id holds half a surrogate pair; expected text that UTF-8 can hold") from None


def by_user(events: Sequence[tuple[str, Event]]) -> dict[bytes, list[tuple[int, bytes]]]:
    """Return each user's events as `canonical` writes them; the users in the order of their last event."""
    grouped: dict[bytes, list[tuple[int, bytes]]] = {}
    for user, event in events:
        key = key_of(user)
        mine = grouped.pop(key, [])
        mine.append(canonical(event))
        grouped[key] = mine
    return grouped


class Breaker:
    """Lets calls fail at once for PAUSE_S after one has failed, so that requests don't all wait for a dead store.

    >>> breaker = Breaker("the store rests after a failure", "the store")
    >>> with breaker.guard((OSError,)):
    ...     raise OSError
    Traceback (most recent call last):
    twotower.server.store.event_store.StoreUnavailable: the store is not reachable (OSError)...
    >>> with breaker.guard((OSError,)):
    ...     print("not reached")
    Traceback (most recent call last):
    twotower.server.store.event_store.StoreUnavailable: the store rests after a failure
    """

    def __init__(self, resting: str, place: str) -> None:
        self._resting = resting
        self._place = place
        self._until = 0.0

    @contextmanager
    def guard(self, failures: tuple[type[Exception], ...]) -> Iterator[None]:
        """Turn the failures of a call into StoreUnavailable, or raise that without the call."""
        if time.monotonic() < self._until:
            raise StoreUnavailable(self._resting)
        try:
            yield
        except failures as error:
            self._until = time.monotonic() + PAUSE_S
            kind = type(error).__name__
            raise StoreUnavailable(
                f"{self._place} is not reachable ({kind}); is the server running, and the address right?"
            ) from None
