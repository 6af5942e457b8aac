"""What a request may ask for."""

import re
from typing import Any

import pytest

from twotower.core.errors import UserError
from twotower.serving.objectives import objective_weights

TYPES = ["cart", "purchase", "view"]


def test_weights_are_shares_of_codes() -> None:
    assert objective_weights(None, TYPES) == objective_weights(None, []) == [(0, 1.0)]
    assert objective_weights("purchase", TYPES) == [(2, 1.0)]
    assert objective_weights({"view": 1, "cart": 0, "purchase": 3.0}, TYPES) == [(3, 0.25), (2, 0.75)]


@pytest.mark.parametrize(
    ("objective", "types", "message"),
    [
        ("purchase", [], "has no objectives.*model/objective=none"),
        ("purchse", TYPES, "did you mean 'purchase'"),
        ({"view": 1, "love": 2}, TYPES, "'love'; the bundle has cart, purchase, view"),
        ({"view": -1}, TYPES, "'view': -1; expected a number, 0 or more"),
        ({"view": True}, TYPES, "'view': True"),
        ({"view": float("inf")}, TYPES, "'view': inf"),
        ({"view": float("nan")}, TYPES, "'view': nan"),
        ({"view": "1"}, TYPES, "'view': '1'"),
        ({"view": 0}, TYPES, "at least one positive"),
        ({}, TYPES, re.escape("expected an event type, or weights as in {'cart': 1.0}")),
        (["view"], TYPES, "expected an event type"),
        (3, TYPES, "expected an event type"),
        ({3: 1}, TYPES, "objective has 3"),
    ],
)
def test_anything_else_is_refused(objective: Any, types: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective_weights(objective, types)
