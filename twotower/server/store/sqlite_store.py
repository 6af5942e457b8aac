"""User events in one SQLite file that the processes of one machine share.

One row a user: the canonical JSON of its events, a line each, oldest first. Write-ahead logging, so that readers never
wait; writers wait for each other. Kills lose nothing; a power cut may take the last moments of a durable store along.
To count users on each addition would read an index of them all, so the bound on users is kept to within one percent.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson

from twotower.core.errors import UserError
from twotower.server.store.event_store import Event, StoreUnavailable, by_user, key_of

BUSY_S = 1.0  # for which a writer waits for writers of other processes
CHUNK = 500  # users a transaction: others wait no longer than a few milliseconds
TABLES = """
    CREATE TABLE IF NOT EXISTS users (user BLOB PRIMARY KEY, seen INTEGER NOT NULL, events BLOB NOT NULL);
    CREATE INDEX IF NOT EXISTS users_by_seen ON users (seen, user);
    CREATE TABLE IF NOT EXISTS erased (user BLOB PRIMARY KEY, time INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS erased_by_time ON erased (time);
"""


class SqliteStore:
    """An EventStore in a file; see `open_store` for the arguments.

    >>> store = SqliteStore("events.db", length=50, expiry_s=86_400, max_users=1000, durable=True)
    >>> store.add([("u", {"item_id": "a", "timestamp": 1})])
    >>> store.recent(10), store.size(), store.forget(["u"]), store.size()
    (['u'], 1, 1, 0)
    """

    def __init__(self, path: str, length: int, expiry_s: float, max_users: int, durable: bool) -> None:
        self._place = f"{'sqlite' if durable else 'memory'}:{path}"
        self._length, self._expiry_us, self._max_users = length, int(expiry_s * 1e6), max_users
        self._each = max(1, max_users // 100)  # new users after which they are counted
        self._new = self._each
        self._locks = threading.Lock(), threading.Lock()
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._writer, self._reader = (_connect(path, durable) for _ in range(2))
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self._place} can't be opened ({error}); name a file in a folder to write to") from None

    def add(self, events: Sequence[tuple[str, Event]]) -> None:
        """See EventStore."""
        grouped = list(by_user(events).items())
        for start in range(0, len(grouped), CHUNK):
            with self._writing() as connection:
                now = time.time_ns() // 1000
                for position, (user, added) in enumerate(grouped[start : start + CHUNK]):
                    self._add(connection, user, added, now + position)
                connection.execute("DELETE FROM users WHERE seen < ?", (now - self._expiry_us,))
                connection.execute("DELETE FROM erased WHERE time < ?", (now - self._expiry_us,))
                if self._new >= self._each:
                    self._new = 0
                    oldest = "SELECT user FROM users ORDER BY seen LIMIT max(0, (SELECT count(*) FROM users) - ?)"
                    connection.execute(f"DELETE FROM users WHERE user IN ({oldest})", (self._max_users,))

    def _add(self, connection: sqlite3.Connection, user: bytes, added: list[tuple[int, bytes]], now: int) -> None:
        erased = connection.execute("SELECT time FROM erased WHERE user = ?", (user,)).fetchone()
        if erased:
            added = [event for event in added if event[0] > erased[0] // 1000]
            if not added:
                return
        stored = connection.execute("SELECT seen, events FROM users WHERE user = ?", (user,)).fetchone()
        lives = stored is not None and stored[0] > now - self._expiry_us
        events = merged(stored[1] if lives else b"", added, self._length)
        connection.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", (user, now, events))
        self._new += stored is None

    def histories(self, users: Sequence[str]) -> list[list[Event]]:
        """See EventStore."""
        query = "SELECT events FROM users WHERE user = ? AND seen > ?"
        oldest = time.time_ns() // 1000 - self._expiry_us
        keys = [key_of(user) for user in users]
        with self._reading() as connection:
            rows = [connection.execute(query, (key, oldest)).fetchone() for key in keys]
        return [parsed(row[0]) if row else [] for row in rows]

    def recent(self, limit: int) -> list[str]:
        """See EventStore."""
        query = "SELECT user FROM users WHERE seen > ? ORDER BY seen DESC LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, (time.time_ns() // 1000 - self._expiry_us, limit)).fetchall()
        return [user.decode() for (user,) in rows]

    def forget(self, users: Sequence[str]) -> int:
        """See EventStore."""
        keys = [(key_of(user),) for user in users]
        now = time.time_ns() // 1000
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO erased VALUES (?, ?)", [(*key, now) for key in keys])
            connection.execute("DELETE FROM users WHERE seen <= ?", (now - self._expiry_us,))
            return connection.executemany("DELETE FROM users WHERE user = ?", keys).rowcount

    def size(self) -> int:
        """See EventStore."""
        with self._reading() as connection:
            query = "SELECT count(*) FROM users WHERE seen > ?"
            return int(connection.execute(query, (time.time_ns() // 1000 - self._expiry_us,)).fetchone()[0])

    def check(self) -> None:
        """See EventStore."""
        with self._reading() as connection:
            connection.execute("SELECT 1 FROM users LIMIT 1").fetchone()

    def close(self) -> None:
        """See EventStore."""
        for lock, connection in zip(self._locks, (self._reader, self._writer), strict=True):
            with lock:
                connection.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._failures(), self._locks[0]:
            yield self._reader

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; that it writes is said at its beginning, as it would fail later on if another had written."""
        with self._failures(), self._locks[1]:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._place}: {error}; is the disk full, or the file held or removed?") from None


def _connect(path: str, durable: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
    connection.executescript(TABLES)
    return connection


def merged(stored: bytes, added: list[tuple[int, bytes]], length: int) -> bytes:
    r"""Return the newest `length` of the stored lines and the added events, each once.

    >>> merged(b'{"timestamp":2}', [(1, b'{"timestamp":1}'), (2, b'{"timestamp":2}')], 5)
    b'{"timestamp":1}\n{"timestamp":2}'
    """
    lines = stored.split(b"\n") if stored else []
    new = sorted(set(added))
    if lines and new[0][0] <= parsed(lines[-1])[0]["timestamp"]:  # else they all stand behind what is stored
        times = [event["timestamp"] for event in parsed(stored)]
        lines, new = [], sorted({*zip(times, lines, strict=True), *new})
    return b"\n".join([*lines, *(line for _, line in new)][-length:])


def parsed(lines: bytes) -> list[Event]:
    """Return the events of a row: JSON has no line break within a value."""
    events: list[Event] = orjson.loads(b"[%b]" % lines.replace(b"\n", b","))
    return events
