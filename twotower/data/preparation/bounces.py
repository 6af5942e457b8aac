"""Bounces: events of one type that another event followed within a few seconds become events of the type "bounce"."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest

BOUNCE = "bounce"
SECOND = 1_000_000  # microseconds


class BounceRule(NamedTuple):
    """An event of the type `base` left within less than `limit` microseconds gets the type `bounce`.

    >>> rule = BounceRule(base=1, limit=3 * SECOND, bounce=0)
    >>> mark_bounces(np.array([1, 1, 1]), np.array([0, 2, 9]) * SECOND, starts=np.array([0]), rule=rule)
    array([0, 1, 1])
    """

    base: int  # codes of event types
    limit: int
    bounce: int


class EventTypes(NamedTuple):
    """The event types, and how their codes come about.

    >>> event_types(["view", "cart"], {"event_type": "view", "seconds": 3}).names
    ['bounce', 'cart', 'view']
    """

    names: list[str]  # sorted; a type's code is its position
    rank_of_code: Array  # [codes + 1] the final code of each code by order of appearance; of 0 that of "bounce"
    bounce: BounceRule | None

    @property
    def input_codes(self) -> list[int]:
        """The code that a model gets for each type, from 1: it learns of a bounce from the next event's gap alone."""
        codes = list(range(1, len(self.names) + 1))
        if self.bounce:
            codes[self.bounce.bounce] = codes[self.bounce.base]
        return codes


def event_types(names: Sequence[str], setting: Mapping[str, Any] | None) -> EventTypes:
    """Return the event types, with "bounce" among them if the setting asks for it.

    Args:
        names: the types in the events, in order of appearance; none where the events have no types.
        setting: preparation.bounce, {event_type: NAME, seconds: NUMBER} or None.

    Raises UserError for a wrong setting.
    """
    names = names or ["event"]
    ordered, rule = sorted(names), None
    if setting:
        if set(setting) != {"event_type", "seconds"} or not isinstance(setting["seconds"], int | float):
            raise UserError(f"preparation.bounce={dict(setting)}; expected {{event_type: NAME, seconds: NUMBER}}")
        base = str(setting["event_type"])
        if base not in names:
            raise UserError(f"preparation.bounce: no event has the type '{base}'{nearest(base, names)}")
        if BOUNCE in names:
            raise UserError(f"preparation.bounce: the events have the type '{BOUNCE}' already; leave the setting out")
        ordered = sorted([*names, BOUNCE])
        rule = BounceRule(ordered.index(base), round(setting["seconds"] * SECOND), ordered.index(BOUNCE))
    ranks = [rule.bounce if rule else 0, *(ordered.index(name) for name in names)]
    return EventTypes(ordered, np.array(ranks, np.uint8), rule)


def mark_bounces(event_type: Array, time: Array, starts: Array, rule: BounceRule) -> Array:
    """Return the event types [E] after the rule; `time` [E] is in microseconds, `starts` [S] where sessions begin."""
    left = np.zeros(len(time), dtype=bool)
    left[:-1] = np.diff(time) < rule.limit
    left[starts[1:] - 1] = False
    return np.where(left & (event_type == rule.base), rule.bounce, event_type).astype(event_type.dtype)
