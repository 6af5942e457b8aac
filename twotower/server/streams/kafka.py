"""Events from a topic of Kafka: the values of its messages.

One process reads all partitions, from the offsets that the group has committed. No member of the group is waited for,
so that a process that was killed goes on at once when it starts again.
"""

import time
from collections.abc import Mapping

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage

from twotower.core.errors import UserError, nearest
from twotower.server.streams.messages import Message
from twotower.server.streams.source import StreamUnavailable

ANSWER_S = 5.0
HOPELESS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
)
LOOK_S = 60.0  # between two looks for partitions that were added


class KafkaSource:
    """A topic as a Source; see `open_source` for the arguments.

    >>> KafkaSource("localhost:9092", "events", "twotower", {"no.such.property": "1"})
    Traceback (most recent call last):
    twotower.core.errors.UserError: Kafka's client: No such configuration property: "no.such.property"
    """

    def __init__(self, brokers: str, topic: str, group: str, properties: Mapping[str, str]) -> None:
        self._place, self._topic = f"kafka://{brokers}", topic
        own = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",  # what retention has removed is counted, see _begin
            "error_cb": self._note,
            "log_level": 2,
        }
        try:
            self._consumer = Consumer({**properties, **own})
        except KafkaException as error:
            raise UserError(f"Kafka's client: {error.args[0].str()}") from None
        self._next: dict[int, int] = {}  # partition -> the offset after what was read
        self._begun: set[int] = set()  # partitions that are read
        self._ended: set[int] = set()
        self._trouble: list[KafkaError] = []  # that is raised by the next call, as messages came with it
        self._silent = False  # no broker was reachable a moment ago
        self.lost = 0
        self._look = time.monotonic() + LOOK_S
        self._begin(set(self._partitions()))

    def read(self, limit: int, wait_s: float) -> list[Message]:
        """See Source."""
        self._mend()
        # consume() waits until it has as many as it was asked for.
        found = self._consumer.consume(1, wait_s)
        found += self._consumer.consume(limit - 1, 0) if found else []
        messages = []
        for each in found:
            if each.error() and each.error().code() == KafkaError._PARTITION_EOF:
                self._ended.add(each.partition())
            elif each.error() and each.error().code() == KafkaError._AUTO_OFFSET_RESET:  # retention was faster
                self._consumer.incremental_unassign([TopicPartition(self._topic, each.partition())])
                self._begun.discard(each.partition())
                self._look = 0.0
            elif each.error():
                self._trouble.append(each.error())
            else:
                self._next[each.partition()] = each.offset() + 1
                messages.append(self._message(each))
        return messages

    def _mend(self) -> None:
        """Do what is due before messages are read: those that were read must not be lost by a trouble."""
        if self._trouble:
            error, self._trouble = self._trouble[0], self._trouble[1:]
            if error.fatal() or error.code() in HOPELESS:
                raise UserError(f"{self._place}, topic {self._topic}: {error.str()}")
            raise StreamUnavailable(f"{self._place}: {error.str()}.")
        if time.monotonic() > self._look or self._silent:
            partitions = self._partitions()
            self._silent = False
            self._begin(set(partitions) - self._begun)
            self._look = time.monotonic() + LOOK_S

    def _message(self, each: KafkaMessage) -> Message:
        kind, timestamp = each.timestamp()
        timestamp = int(time.time() * 1000) if kind == TIMESTAMP_NOT_AVAILABLE else timestamp
        return Message(f"{self._topic}-{each.partition()}", f"{each.offset():020d}", each.value(), timestamp)

    def _note(self, error: KafkaError) -> None:
        self._silent = self._silent or error.code() == KafkaError._ALL_BROKERS_DOWN

    def commit(self) -> None:
        """See Source."""
        offsets = [TopicPartition(self._topic, number, offset) for number, offset in self._next.items() if offset >= 0]
        if not offsets:
            return
        if self._silent:  # a commit would wait for a minute
            self._partitions()
            self._silent = False
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise StreamUnavailable(f"{self._place} doesn't take offsets: {error.args[0].str()}.") from None
        for each in done:
            if each.error:
                raise StreamUnavailable(f"{self._place} doesn't take offsets: {each.error.str()}.")

    def at_end(self) -> bool:
        """See Source."""
        return self._ended >= self._next.keys()

    def lag(self) -> int:
        """See Source."""
        ends = {
            number: self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), cached=True)[1]
            for number in self._next
        }
        return sum(max(0, end - max(0, self._next[number])) for number, end in ends.items())

    def close(self) -> None:
        """See Source."""
        self._consumer.close()

    def _partitions(self) -> list[int]:
        try:
            topics = self._consumer.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise StreamUnavailable(f"{self._place} doesn't answer: {error.args[0].str()}.") from None
        found = topics.get(self._topic)
        if found is None or not found.partitions:
            raise UserError(f"{self._place} has no topic {self._topic}{nearest(self._topic, topics) or '; create it'}")
        return sorted(found.partitions)

    def _begin(self, partitions: set[int]) -> None:
        """Read further partitions from where the group has stopped, or from the first message that is still there."""
        if not partitions:
            return
        lost: dict[int, int] = {}
        try:
            committed = self._consumer.committed(
                [TopicPartition(self._topic, number) for number in sorted(partitions)], timeout=ANSWER_S
            )
            for each in committed:
                if each.error:
                    raise StreamUnavailable(f"{self._place} doesn't tell offsets: {each.error.str()}.")
                first, end = self._consumer.get_watermark_offsets(each, timeout=ANSWER_S)
                each.offset = max(each.offset, self._next.get(each.partition, each.offset))
                if each.offset > end:
                    raise UserError(
                        f"{self._place}: the group stands at {each.offset:,} in partition {each.partition} of "
                        f"{self._topic}, which ends at {end:,}; if the topic was made anew, name another --group and "
                        "another --archive"
                    )
                lost[each.partition] = first - each.offset if 0 <= each.offset < first else 0
                each.offset = max(first, each.offset) if each.offset >= 0 else OFFSET_BEGINNING
        except KafkaException as error:
            raise StreamUnavailable(f"{self._place} doesn't answer: {error.args[0].str()}.") from None
        self._consumer.incremental_assign(committed)
        self.lost += sum(lost.values())
        self._begun |= partitions
        self._next |= {each.partition: each.offset for each in committed}
