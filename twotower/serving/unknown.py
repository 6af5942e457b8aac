"""What requests name and the bundle does not have: counted by kind, and warned of or refused.

ids in histories, ids in items, ids in include, ids in exclude     items that the catalogue lacks
event keys                                                         keys that the model does not use
event types, values of NAME                                        values that training did not have
timestamps before the newest event                                 of a request; answered as at that event
filter of NAME                                                     values and ranges that no item has
"""

import logging
import reprlib
from collections import Counter
from collections.abc import Sequence
from threading import Lock
from typing import Any

from twotower.core.errors import UserError

log = logging.getLogger(__name__)
SHOWN = 10  # known values in a message


class Unknown:
    """Counts what is unknown, and warns once of each kind; safe to share between threads.

    Args:
        strict: refuse a request that names something unknown.
    """

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._count: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind were named so far."""
        with self._lock:
            return dict(self._count)

    def note(
        self, kind: str, values: Sequence[Any], number: int, known: str | Sequence[Any], each_time: bool = False
    ) -> None:
        """Count `values`, the unknown ones among `number` that a request named; nothing happens where there are none.

        Args:
            kind: of the values, one of those above.
            values: as they arrived.
            number: of values that the request named, the known ones among them.
            known: what was expected, as values or in words.
            each_time: warn again, if the request named nothing that is known.

        Raises:
            UserError: there are some, and unknown values are refused.
        """
        if not values:
            return
        with self._lock:
            is_first = kind not in self._count
            self._count[kind] += len(values)
        message = (
            f"{kind}: {number - len(values):,} of {number:,} known; unknown is, e.g., {reprlib.repr(values[0])}. "
            f"Expected {known if isinstance(known, str) else listed(known)}"
        )
        if self._strict:
            raise UserError(message)
        if is_first or (each_time and len(values) == number):
            log.warning(message)


def listed(values: Sequence[Any]) -> str:
    """Return values in words, at most SHOWN of them.

    >>> listed(["view", "cart"])
    "'view', 'cart'"
    """
    more = f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else ""
    return ", ".join(reprlib.repr(value) for value in values[:SHOWN]) + more
