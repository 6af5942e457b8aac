"""How far ahead a position looks for what it learns to predict, and what a list of items is measured by.

Shapes: S sessions, E events, Q positions, n events from the first to the last that is ahead of a position.
"""

from typing import NamedTuple

import numpy as np

from twotower.core.arrays import Array
from twotower.core.errors import UserError, nearest
from twotower.core.event_codes import GAP, MS_PER_DAY
from twotower.core.schema import Prepared

NEXT, SESSION = "next", "session"


class Horizon(NamedTuple):
    """The events ahead of a position: the next one, and the later ones of its session within `days` of its own event.

    >>> days = MS_PER_DAY * np.array([0, 1, 5, 9])
    >>> horizon = Horizon(offsets=np.array([0, 4]), end=np.array([4]), timestamp=days, days=5)
    >>> horizon.stop(np.array([0, 1, 2])).tolist()
    [3, 3, 4]
    """

    offsets: Array  # [S + 1]
    end: Array  # [S] of the part, as training or test: events from there on are ahead of no position
    timestamp: Array  # [E] milliseconds, ascending in a session
    days: float  # inf: the rest of the session

    def stop(self, position: Array) -> Array:
        """Return [Q] the position just after the last event ahead of those at `position` [Q].

        Each has to have a next event in the part. That one counts however late it comes.
        """
        high = np.asarray(self.end)[np.searchsorted(self.offsets, position, side="right") - 1].astype(np.int64)
        if self.days == np.inf:
            return high
        low, latest = position + 2, self.timestamp[position] + min(round(self.days * MS_PER_DAY), 2**62)
        while len(between := np.flatnonzero(low < high)):
            middle = (low[between] + high[between]) // 2
            is_ahead = self.timestamp[middle] <= latest[between]
            low[between] = np.where(is_ahead, middle + 1, low[between])
            high[between] = np.where(is_ahead, high[between], middle)
        return low

    def draw(self, position: Array, chance: Array) -> Array:
        """Return [Q] one event ahead of each of `position` [Q], all equally probable, by `chance` [Q] from [0, 1)."""
        following = position + 1
        drawn: Array = following + (chance * (self.stop(position) - following)).astype(np.int64)
        return drawn

    def expected_draws(self, position: Array) -> tuple[Array, Array]:
        """Return the events [n] that `draw` may give for `position` [Q], at least one, and how often on average [n].

        An event ahead of a position that has m events ahead is drawn 1 / m times by it.
        """
        first, stop = position.min() + 1, self.stop(position)
        begin, end, size = position + 1 - first, stop - first, int((stop - first).max(initial=0)) + 1
        share = 1 / (end - begin)
        times = np.cumsum(np.bincount(begin, share, size) - np.bincount(end, share, size))
        reached = np.cumsum(np.bincount(begin, minlength=size) - np.bincount(end, minlength=size))
        event = np.flatnonzero(reached)  # `times` is rounded, so that it may be other than 0 elsewhere
        return first + event, times[event]


def events_ahead(setting: str | float, prepared: Prepared, end: Array) -> Horizon | None:
    """Return the horizon that model.horizon or evaluation.horizon asks for; None for `next`.

    Args:
        setting: `next`, `session` or a number of days.
        prepared: the events.
        end: [S] of the part in each session.

    Raises:
        UserError: another setting, or days for data without times.
    """
    if setting == NEXT:
        return None
    if setting == SESSION:
        return Horizon(prepared.offsets, end, prepared.timestamp, np.inf)
    if isinstance(setting, bool) or not isinstance(setting, int | float) or not 0 < setting < np.inf:
        raise UserError(
            f"horizon={setting}; model.horizon and evaluation.horizon are next, session or a number of days above 0"
            f"{nearest(str(setting), [NEXT, SESSION])}"
        )
    if GAP not in prepared.manifest["inputs"]:
        raise UserError(
            f"horizon={setting} is a number of days, and this data's timestamps tell the order alone; "
            "take session, or prepare the data with its data.timestamp_unit"
        )
    return Horizon(prepared.offsets, end, prepared.timestamp, float(setting))
