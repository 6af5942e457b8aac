"""What a request asks for: events of any type, of one type, or a weighted blend of types."""

from collections.abc import Mapping, Sequence
from typing import Any

from twotower.core.errors import UserError, nearest
from twotower.core.event_codes import ANY_TYPE


def objective_weights(objective: Any, event_types: Sequence[str]) -> list[tuple[int, float]]:
    """Return codes and weights, which sum to one, of what a request asks for.

    Args:
        objective: None, the name of an event type, or weights by name.
        event_types: those that the bundle can be asked for, in the order of their codes; empty: it can't.

    Raises:
        UserError: a name that the bundle does not have, or weights that are no shares.

    >>> objective_weights({"view": 1, "purchase": 3}, ["purchase", "view"])
    [(2, 0.25), (1, 0.75)]
    """
    if objective is None:
        return [(ANY_TYPE, 1.0)]
    if not event_types:
        raise UserError(
            f"objective is {objective!r}; this bundle has no objectives: its model was trained with "
            "model/objective=none. Leave it out"
        )
    weights = {objective: 1.0} if isinstance(objective, str) else objective
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(
            f"objective is {objective!r}; expected an event type, or weights as in {{{event_types[0]!r}: 1.0}}"
        )
    for name, weight in weights.items():
        if name not in event_types:
            raise UserError(
                f"objective has {name!r}; the bundle has {', '.join(event_types)}{nearest(str(name), event_types)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"objective has {name!r}: {weight!r}; expected a number, 0 or more")
    total = sum(weights.values())
    if total == 0:
        raise UserError(f"objective is {objective!r}; expected at least one positive weight")
    return [(event_types.index(name) + 1, weight / total) for name, weight in weights.items() if weight]
