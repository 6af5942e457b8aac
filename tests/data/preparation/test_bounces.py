"""Event types with bounces, and which events bounce."""

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.data.preparation.bounces import SECOND, BounceRule, event_types, mark_bounces


def test_types_are_sorted_and_a_model_is_not_told_of_a_bounce() -> None:
    types = event_types(["view", "cart"], {"event_type": "view", "seconds": 2.5})
    assert types.names == ["bounce", "cart", "view"]
    assert types.rank_of_code.tolist() == [0, 2, 1]  # null, view, cart
    assert types.bounce == BounceRule(base=2, limit=2_500_000, bounce=0)
    assert types.input_codes == [3, 2, 3]


def test_events_without_types_have_one() -> None:
    types = event_types([], None)
    assert (types.names, types.rank_of_code.tolist(), types.input_codes) == (["event"], [0, 0], [1])


def test_the_last_event_of_a_session_never_bounces() -> None:
    kinds, time = np.array([2, 2, 1, 2, 2], dtype=np.uint8), np.array([0, 1, 2, 2, 5]) * SECOND
    marked = mark_bounces(kinds, time, starts=np.array([0, 3]), rule=BounceRule(2, 3 * SECOND, 0))
    assert marked.tolist() == [0, 0, 1, 2, 2]
    assert marked.dtype == np.uint8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seconds": 3}, "expected {event_type: NAME, seconds: NUMBER}"),
        ({"event_type": "view", "seconds": "3"}, "expected {event_type: NAME, seconds: NUMBER}"),
        ({"event_type": "vew", "seconds": 3}, "'vew'; did you mean 'view'"),
        ({"event_type": "view", "seconds": 3}, "'bounce' already"),
    ],
)
def test_wrong_settings(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"preparation\.bounce.*{message}"):
        event_types(["view", "bounce"], setting)
