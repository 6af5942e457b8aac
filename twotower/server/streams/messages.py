"""From a message of a stream to a user's event: one JSON object, as an element of `POST /events`."""

from typing import Any, NamedTuple

import orjson

from twotower.core.errors import UserError
from twotower.core.schema import CONSENT, CONSENT_VALUES, ITEM_ID, NO_CONSENT_VALUES, TIMESTAMP, USER_ID
from twotower.core.values import text_of
from twotower.server.store.event_store import Event

MAX_BYTES = 16_384  # of one event; a store of user events holds many
EARLIEST, LATEST = 10**11, 10**14  # milliseconds since 1970: the years 1973 to 5138; seconds and nanoseconds are not


class Message(NamedTuple):
    """What a stream delivers.

    >>> Message("events-0", "00000000000000000007", b"{}", 1_700_000_000_000).offset
    '00000000000000000007'
    """

    partition: str  # one log, whose offsets are in order
    offset: str  # of a fixed width, so that texts have the order of offsets
    value: bytes | None
    timestamp: int  # milliseconds since 1970, of an event that has none


class Malformed(UserError):
    """A message that is no event; the reason names keys, never values.

    >>> raise Malformed("item_id is missing")
    Traceback (most recent call last):
    twotower.server.streams.messages.Malformed: item_id is missing
    """


def event_of(message: Message) -> tuple[str, Event] | None:
    """Return the user and the event of a message; None where the event is without consent.

    Keys whose value is null are left out, and consent, as all that remain have it.

    >>> value = b'{"user_id": 7, "item_id": "a", "timestamp": 1700000000000, "price": 9.5, "consent": true}'
    >>> event_of(Message("events-0", "7", value, 0))
    ('7', {'item_id': 'a', 'timestamp': 1700000000000, 'price': 9.5})

    Raises:
        Malformed: no JSON object, no user, item or time, or values that are lists or objects.
    """
    content = _object(message.value)
    if CONSENT in content and not _consents(content.pop(CONSENT)):
        return None
    user = text_of(_plain_id(content.pop(USER_ID, None), USER_ID))
    item = _plain_id(content.get(ITEM_ID), ITEM_ID)
    if user is None or text_of(item) is None:
        raise Malformed(f"{USER_ID if user is None else ITEM_ID} is missing")
    timestamp = _whole(content.get(TIMESTAMP))
    timestamp = message.timestamp if timestamp is None else timestamp
    if not isinstance(timestamp, int) or isinstance(timestamp, bool) or not EARLIEST <= timestamp <= LATEST:
        raise Malformed(f"{TIMESTAMP} is not in milliseconds since 1970")
    for name, value in content.items():
        if not name or isinstance(value, list | dict):
            raise Malformed("a key is empty" if not name else "a value is a list or an object")
    event = {name: value for name, value in content.items() if value is not None}
    return user, {**event, ITEM_ID: item, TIMESTAMP: timestamp}


def _object(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise Malformed("the message is empty")
    if len(value) > MAX_BYTES:
        raise Malformed(f"the message is larger than {MAX_BYTES:,} bytes")
    try:
        content = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise Malformed("the message is no JSON") from None
    if not isinstance(content, dict):
        raise Malformed("the message is no JSON object")
    return content


def _consents(value: Any) -> bool:
    text = (text_of(value) or "").lower()
    if isinstance(value, list | dict) or text not in (*CONSENT_VALUES, *NO_CONSENT_VALUES):
        raise Malformed(f"{CONSENT} is neither yes nor no")
    return text in CONSENT_VALUES


def _plain_id(value: Any, name: str) -> Any:
    value = _whole(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise Malformed(f"{name} is neither a text nor a whole number")
    return value


def _whole(value: Any) -> Any:
    """A whole number that JSON's writer has given a fraction: 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
