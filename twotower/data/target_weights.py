"""Weights of targets by event type. Shapes: T event types."""

from collections.abc import Mapping, Sequence

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest


def type_weights(event_types: Sequence[str], target_weights: Mapping[str, float] | None) -> Array:
    """Return [T] float32 weights of targets by event type; a type that `target_weights` does not name weighs 1.

    Raises UserError for an unknown event type, a weight that is not a number, or where no weight is positive.

    >>> type_weights(["buy", "view"], {"buy": 3})
    array([3., 1.], dtype=float32)
    """
    weights = dict(target_weights or {})
    for name, weight in weights.items():
        if name not in event_types:
            raise UserError(
                f"target_weights names the event type '{name}'; there are {', '.join(event_types)}"
                f"{nearest(str(name), event_types)}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
            raise UserError(f"target_weights.{name}={weight}; expected a number: positive, 0 (no target) or negative")
    result = np.array([weights.get(name, 1.0) for name in event_types], dtype=np.float32)
    if not (result > 0).any():
        raise UserError(f"target_weights={weights} leaves nothing to rank high; give some event type a positive weight")
    return result
