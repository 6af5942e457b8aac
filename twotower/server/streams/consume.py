"""Consume events: from Kafka or Redis Streams into the store of user events, and into Parquet files.

Each message is one JSON object with user_id, item_id, and optionally timestamp (milliseconds since 1970), event_type,
consent and others; in a Redis stream the field `event` holds it. A message takes effect before its offset is committed,
so that a killed process loses nothing; one that comes again changes nothing. SIGTERM and Ctrl-C finish what was read.

    twotower consume kafka://broker:9092/events --store redis://localhost:6379/0 --archive archive/
    twotower consume 'redis://localhost:6379/0?stream=events' --store sqlite:events.db --archive archive/

The archive is what the next preparation reads: data=events data.path=archive/
"""

import argparse
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twotower.core.errors import UserError

if TYPE_CHECKING:
    from twotower.server.store.event_store import EventStore
    from twotower.server.streams.messages import Message
    from twotower.server.streams.source import Source

T = TypeVar("T")
BATCH, WAIT_S = 2_000, 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PROGRESS_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """`twotower consume SOURCE --store URL`: read until a signal or the end; return the exit status."""
    options = _parser().parse_args(arguments)

    from twotower.server.store.event_store import open_store
    from twotower.server.streams.source import open_source

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = open_store(options.store, options.length, options.expiry_days * 86_400, options.max_users)
    consumer = StreamConsumer(store, options.archive, options.dead_letters, stop)
    try:
        source = consumer.insist(lambda: open_source(options.source, options.group, _properties(options.properties)))
        seconds = options.archive_seconds if options.archive else 0
        consumer.run(source, options.archive_rows, seconds, options.until_end)
        source.close()
    finally:
        store.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twotower consume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="kafka://HOST:PORT[,HOST:PORT]/TOPIC or redis://HOST:PORT/DB?stream=NAME")
    add("--store", required=True, metavar="URL", help="of the user events, as `twotower serve` has it")
    add("--archive", type=Path, metavar="FOLDER", help="of the Parquet files; without it none are written")
    add("--dead-letters", type=Path, default=Path("dead-letters"), metavar="FOLDER", help="(default: %(default)s)")
    add("--group", default="twotower", help="whose position the stream keeps (default: %(default)s)")
    add("--properties", type=Path, metavar="FILE", help="KEY=VALUE lines for Kafka's client: security.protocol, ...")
    add("--length", type=int, default=50, help="events of a user that stay; the model's (default: %(default)s)")
    add("--expiry-days", type=float, default=30, help="after a user's last event (default: %(default)s)")
    add("--max-users", type=int, default=1_000_000, help="(default: %(default)s)")
    add("--archive-rows", type=int, default=50_000, help="after which a file is written (default: %(default)s)")
    add("--archive-seconds", type=float, default=60, help="likewise (default: %(default)s)")
    add("--until-end", action="store_true", help="end where the stream does, instead of waiting for more")
    return parser


def _properties(file: Path | None) -> dict[str, str]:
    """Read Kafka's properties: KEY=VALUE lines; those that begin with # are comments."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()] if file else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--properties {file} can't be read: {error}") from None
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    for number, (_, equals, _) in enumerate(pairs, 1):
        if not equals:  # not the line itself, as it may be a password
            raise UserError(f"--properties {file}: entry {number} has no '='; expected KEY=VALUE")
    return {key.strip(): value.strip() for key, _, value in pairs}


class Stopped(UserError):
    """A signal came while something was not reachable.

    >>> raise Stopped("stopped while the store was not reachable")
    Traceback (most recent call last):
    twotower.server.streams.consume.Stopped: stopped while the store was not reachable
    """


class StreamConsumer:
    """Brings messages into the store and the folders, and counts them.

    >>> from twotower.server.store.event_store import open_store
    >>> store = open_store("memory:events.db", length=50, expiry_s=3600, max_users=1000)
    >>> StreamConsumer(store, Path("archive"), Path("dead-letters"), threading.Event()).counts
    Counter()
    """

    def __init__(self, store: "EventStore", archive: Path | None, dead_letters: Path, stop: threading.Event) -> None:
        self._store, self._archive, self._dead_letters, self._stop = store, archive, dead_letters, stop
        self._rows: dict[str, list[tuple[str, Any]]] = {}  # partition -> offset, event: for the archive
        self._dead: dict[str, list[tuple[str, Any]]] = {}
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def run(self, source: "Source", archive_rows: int, archive_seconds: float, until_end: bool) -> None:
        """Read until the signal, or the stream's end; then write and commit what was read.

        Raises Stopped where the signal came while the store was not reachable: what was not committed comes again.
        """
        begun = said = written = time.monotonic()
        before = 0
        while not self._stop.is_set():
            messages = self.insist(lambda: source.read(BATCH, WAIT_S))
            self._take(messages)
            now = time.monotonic()
            waiting = sum(map(len, self._rows.values()))
            if waiting >= archive_rows or now - written >= archive_seconds:
                self._commit(source)
                written = now
            if now - said >= PROGRESS_S:
                rate = (self.counts["messages"] - before) / (now - said)
                lag = self.insist(source.lag)
                print(f"{self.counts['messages']:,} messages, {rate:,.0f}/s, {lag:,} wait{self._odd()}", flush=True)
                said, before = now, self.counts["messages"]
            if until_end and not messages and source.at_end():
                break
        self._commit(source)
        seconds = time.monotonic() - begun
        print(
            f"{self.counts['messages']:,} messages in {seconds:,.1f} s: {self.counts['events']:,} events{self._odd()}"
        )
        if self._archive:
            print(f"archive: {self._archive} (+{self.counts['archived']:,} rows)", flush=True)

    def _odd(self) -> str:
        """What is not as it should be, for the lines on the terminal."""
        kinds = {
            "without consent": self.counts["without consent"],
            "lost, as the stream had removed them before they were read": self.counts["lost"],
            "in the archive already; if the topic was made anew, name another archive": self.counts["again"],
        }
        told = [f"; {count:,} {kind}" for kind, count in kinds.items() if count]
        if self.reasons:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in self.reasons.most_common())
            told.append(f"; {self.reasons.total():,} dead letters in {self._dead_letters} ({reasons})")
        return "".join(told)

    def _take(self, messages: "Sequence[Message]") -> None:
        """Add the events of messages to the store, and to what waits for the files."""
        from twotower.server.streams.messages import Malformed, event_of

        events = []
        for message in messages:
            try:
                event = event_of(message)
            except Malformed as error:
                self._dead.setdefault(message.partition, []).append((message.offset, (message, str(error))))
                self.reasons[str(error)] += 1
                continue
            if event is None:
                self.counts["without consent"] += 1
                continue
            events.append(event)
            if self._archive:
                self._rows.setdefault(message.partition, []).append((message.offset, event))
        if events:
            self.insist(lambda: self._store.add(events))
        self.counts["messages"] += len(messages)
        self.counts["events"] += len(events)

    def _commit(self, source: "Source") -> None:
        """Write the files, then commit the offsets."""
        from twotower.server.streams.event_archive import LINES, PARQUET, kept_columns, lines_of, parquet_of, write_once

        for partition, dead in self._dead.items():
            write_once(self._dead_letters, partition, LINES, dead, lines_of)
        for partition, rows in self._rows.items():
            assert self._archive is not None  # else no rows wait
            also = kept_columns(self._archive)
            new = write_once(self._archive, partition, PARQUET, rows, lambda events: parquet_of(events, also))  # noqa: B023  # called at once
            self.counts["archived"] += new
            self.counts["again"] += len(rows) - new
        self._dead, self._rows = {}, {}
        self.insist(source.commit)
        self.counts["lost"] = source.lost

    def insist(self, call: Callable[[], T]) -> T:
        """Call until the store and the stream are reachable, with growing pauses; say so, and when they are again.

        Raises Stopped at a signal meanwhile.
        """
        from twotower.server.store.event_store import StoreUnavailable
        from twotower.server.streams.source import StreamUnavailable

        pause, since = FIRST_PAUSE_S, None
        while True:
            try:
                result = call()
            except (StoreUnavailable, StreamUnavailable) as error:
                if since is None:
                    since = time.monotonic()
                    print(f"{error} Waiting; nothing is lost.", flush=True)
                if self._stop.wait(pause):
                    raise Stopped(
                        f"stopped before all took effect: {error} What was not committed comes again"
                    ) from None
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            if since is not None:
                print(f"reachable again after {time.monotonic() - since:,.1f} s", flush=True)
            return result
