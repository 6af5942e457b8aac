"""Which messages are events, and what is refused."""

import json
from typing import Any

import pytest

from twotower.server.streams.messages import Malformed, Message, event_of

TIME = 1_700_000_000_000


def message(content: Any) -> Message:
    value = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    return Message("events-0", "7", value, TIME + 5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"user_id": "u", "item_id": "i", "timestamp": TIME}, ("u", {"item_id": "i", "timestamp": TIME})),
        ({"user_id": 12, "item_id": 5}, ("12", {"item_id": 5, "timestamp": TIME + 5})),  # the message's own time
        ({"user_id": 12.0, "item_id": 5.0, "timestamp": 1.7e12}, ("12", {"item_id": 5, "timestamp": TIME})),
        (
            {"user_id": "12.0", "item_id": "5", "event_type": "view", "n": None},
            ("12", {"item_id": "5", "timestamp": TIME + 5, "event_type": "view"}),
        ),
        ({"user_id": "ü 日", "item_id": "007", "a": True, "b": 1.5}, None),
        ({"user_id": "u", "item_id": "i", "consent": "Yes"}, ("u", {"item_id": "i", "timestamp": TIME + 5})),
    ],
)
def test_events(content: dict[str, Any], expected: Any) -> None:
    whole = (content["user_id"], {k: v for k, v in content.items() if k != "user_id"} | {"timestamp": TIME + 5})
    assert event_of(message(content)) == (expected or whole)


@pytest.mark.parametrize("consent", [False, None, "no", 0, "denied", ""])
def test_events_without_consent_are_none(consent: Any) -> None:
    assert event_of(message({"user_id": "u", "item_id": "i", "consent": consent})) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\xff\xfe", "no JSON$"),
        (b"{", "no JSON$"),
        (b'{"user_id":"u","item_id":"\\ud800"}', "no JSON$"),
        (b"[" * 10_000, "no JSON$"),
        (b'"text"', "no JSON object"),
        ([{"user_id": "u"}], "no JSON object"),
        (b'{"user_id":"u","item_id":"' + b"x" * 20_000 + b'"}', "larger"),
        ({}, "user_id is missing"),
        ({"user_id": "null", "item_id": "i"}, "user_id is missing"),
        ({"user_id": "u"}, "item_id is missing"),
        ({"user_id": "u", "item_id": ""}, "item_id is missing"),
        ({"user_id": True, "item_id": "i"}, "user_id is neither"),
        ({"user_id": "u", "item_id": 1.5}, "item_id is neither"),
        ({"user_id": "u", "item_id": ["i"]}, "item_id is neither"),
        ({"user_id": "u", "item_id": "i", "timestamp": 1_700_000_000}, "milliseconds"),  # seconds
        ({"user_id": "u", "item_id": "i", "timestamp": TIME * 1000}, "milliseconds"),
        ({"user_id": "u", "item_id": "i", "timestamp": "2026-01-31"}, "milliseconds"),
        ({"user_id": "u", "item_id": "i", "timestamp": True}, "milliseconds"),
        ({"user_id": "u", "item_id": "i", "timestamp": TIME + 0.5}, "milliseconds"),
        ({"user_id": "u", "item_id": "i", "": 1}, "key is empty"),
        ({"user_id": "u", "item_id": "i", "tags": ["a"]}, "list or an object"),
        ({"user_id": "u", "item_id": "i", "consent": "perhaps"}, "consent is neither"),
        ({"user_id": "u", "item_id": "i", "consent": {}}, "consent is neither"),
    ],
)
def test_others_are_malformed(content: Any, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        event_of(message(content))
