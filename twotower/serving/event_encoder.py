"""Encode the events of a request: raw values to the codes of the model's event inputs.

The codes come from the functions that prepared the training data (twotower.core.event_codes, twotower.features).
Shapes: E events of all histories, one history after the other; K event inputs.
"""

import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import numpy as np

from twotower.core.arrays import Ints, Mask
from twotower.core.errors import UserError
from twotower.core.event_codes import (
    EVENT_TYPE,
    GAP,
    HOUR,
    SIZES,
    TIME,
    TIME_SIZE,
    WEEKDAY,
    gap_codes,
    hour_codes,
    time_codes,
    weekday_codes,
)
from twotower.core.schema import ITEM_ID, TIMESTAMP
from twotower.core.values import TextForm
from twotower.features import encode_single, form
from twotower.serving.unknown import Unknown

Event = Mapping[str, Any]

UNKNOWN = -1  # in place of a missing time
EARLIEST_MS, LATEST_MS = 10**11, 10**14  # 1973 and 5138; a smaller number counts seconds, a larger one microseconds
SIMILARITY = 0.87  # of a misspelt key: "timestmp" has 0.94, "devices" 0.92; "page" is not "age" (0.86)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventEncoder:
    """Encodes raw events as preparation does.

    Args:
        inputs: names of the K event inputs, in the user tower's order.
        features: encoders of their values (features.json).

    Raises:
        UserError: this machine lacks the time zone.
        KeyError: `features` lacks one of `inputs`.

    >>> features = {"time_zone": "UTC", "event_types": ["view", "cart"], "input_types": [1, 2], "events": {}}
    >>> EventEncoder(["event_type"], features).codes([{"event_type": "cart"}, {}], np.array([True, False]))
    array([[2],
           [0]])
    """

    def __init__(self, inputs: Sequence[str], features: Mapping[str, Any]) -> None:
        self.inputs = list(inputs)
        self.form = TextForm.of(features)
        self._zone = features["time_zone"]
        self._type_code: dict[str | None, int] = dict(
            zip(features["event_types"], features["input_types"], strict=True)
        )
        self._encoders = {name: features["events"][name] for name in inputs if name not in (EVENT_TYPE, TIME, *SIZES)}
        self._column = {name: str(encoder.get("column") or name) for name, encoder in self._encoders.items()}
        self.used = {ITEM_ID, TIMESTAMP, EVENT_TYPE, *self._column.values()}
        try:
            if HOUR in inputs or WEEKDAY in inputs:
                hour_codes(np.zeros(1, dtype=np.int64), self._zone)
        except ZoneInfoNotFoundError:
            raise UserError(f"this machine has no time zone {self._zone}; pip install tzdata") from None

    @property
    def sizes(self) -> dict[str, int]:
        """The number of codes of each input, by name."""
        sizes = {**SIZES, TIME: TIME_SIZE, EVENT_TYPE: 1 + len(self._type_code)}
        sizes |= {name: int(form(encoder)["size"]) for name, encoder in self._encoders.items()}
        return {name: sizes[name] for name in self.inputs}

    def keys(self) -> dict[str, dict[str, Any]]:
        """Return what an event may hold beside its item, by key; see serving.contract."""
        timed = [name for name in self.inputs if name in (GAP, HOUR, WEEKDAY, TIME)]
        zone = {"time_zone": self._zone} if {HOUR, WEEKDAY} & {*timed} else {}
        used = [EVENT_TYPE] if EVENT_TYPE in self.inputs else []
        keys: dict[str, dict[str, Any]] = {
            TIMESTAMP: {"type": "integer", "inputs": timed, "unit": "milliseconds since 1970-01-01 00:00 UTC", **zone},
            EVENT_TYPE: {"type": "text", "inputs": used, "values": [*self._type_code]},
        }
        for name, encoder in self._encoders.items():
            known = {"values": encoder["vocabulary"]} if "vocabulary" in encoder else {"edges": encoder["edges"]}
            inputs = [each for each, column in self._column.items() if column == self._column[name]]
            keys[self._column[name]] = {"type": "number" if "edges" in encoder else "text", "inputs": inputs, **known}
        return keys

    def codes(self, events: Sequence[Event], first: Mask) -> Ints:
        """Return [E, K] the codes of raw events; 0 where a value is missing.

        Args:
            events: E mappings of column names to values, history after history, oldest first. `timestamp` is in
                milliseconds since 1970 or a datetime (UTC where it has no zone).
            first: [E] True for the first event of a history.

        Raises:
            UserError: a malformed timestamp, or a misspelt key.
        """
        self.check_keys(events)
        codes = np.zeros((len(events), len(self.inputs)), dtype=np.int64)
        if not {GAP, HOUR, WEEKDAY, TIME}.isdisjoint(self.inputs):
            time = _milliseconds(events)
            known = time != UNKNOWN
        for k, name in enumerate(self.inputs):
            if name == EVENT_TYPE:
                codes[:, k] = self._types(events)
            elif name == GAP:  # unknown after an event of unknown time
                codes[:, k] = gap_codes(time, first | ~known | ~np.roll(known, 1))
            elif name == HOUR:
                codes[known, k] = hour_codes(time[known], self._zone)
            elif name == WEEKDAY:
                codes[known, k] = weekday_codes(time[known], self._zone)
            elif name == TIME:
                codes[known, k] = time_codes(time[known])
            else:
                column = [event.get(self._column[name]) for event in events]
                codes[:, k] = encode_single(self._encoders[name], column)
        return codes

    def note_unknown(self, events: Sequence[Event], codes: Ints, unknown: Unknown) -> None:
        """Report keys that the model does not use, and values that training did not have.

        Args:
            events: E mappings.
            codes: [E, K] of `codes`.
            unknown: what they are reported to.
        """
        keys = set().union(*events)
        if not self.used >= keys:
            unknown.note("event keys", sorted(keys - self.used, key=str), len(keys), sorted(self.used))
        for place, name in enumerate(self.inputs):
            if name != EVENT_TYPE and name not in self._column:  # made of the timestamp
                continue
            column, encoder = self._column.get(name, EVENT_TYPE), self._encoders.get(name, {})
            strange = np.flatnonzero(codes[:, place] <= encoder.get("out_of_vocabulary", 0)).tolist()
            values = [
                value for value in (events[row].get(column) for row in strange) if self.form.text(value) is not None
            ]
            if values:
                kind = "event types" if name == EVENT_TYPE else f"values of {column}"
                known = [*self._type_code] if name == EVENT_TYPE else encoder.get("vocabulary", "numbers")
                unknown.note(kind, values, len(events), known)

    def _types(self, events: Sequence[Event]) -> list[int]:
        """Types are texts, as in preparation; a type that training did not have is unknown."""
        return [self._type_code.get(self.form.text(event.get(EVENT_TYPE)), 0) for event in events]

    def check_keys(self, events: Sequence[Event]) -> None:
        """Refuse a key like that of a column that no event has: it is misspelt. Other unknown keys are normal."""
        names = {EVENT_TYPE: EVENT_TYPE, **dict.fromkeys((GAP, HOUR, WEEKDAY, TIME), TIMESTAMP), **self._column}
        keys = set().union(*events)
        missing = {names[name] for name in self.inputs} - keys
        plain = {_plain(name): name for name in missing}
        for key in sorted(key for key in keys - {ITEM_ID} if isinstance(key, str)):
            for match in difflib.get_close_matches(_plain(key), plain, n=1, cutoff=SIMILARITY):
                raise UserError(
                    f"an event has the key '{key}', and no event has '{plain[match]}', which the model uses; "
                    f"did you mean '{plain[match]}'?"
                )


def item_ids(events: Sequence[Event]) -> list[Any]:
    """Return [E] the events' item ids; raises UserError for an event without one."""
    try:
        return [event[ITEM_ID] for event in events]
    except KeyError:
        incomplete = next(event for event in events if ITEM_ID not in event)
        raise UserError(f"an event has the keys {list(incomplete)}; expected '{ITEM_ID}' in every event") from None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _milliseconds(events: Sequence[Event]) -> Ints:
    """[E] milliseconds since 1970, rounded down as in preparation; UNKNOWN without a timestamp."""
    return np.array([milliseconds(event.get(TIMESTAMP), "an event") for event in events], dtype=np.int64)


def milliseconds(value: Any, what: str) -> int:
    """Return one timestamp as `_milliseconds` does; raises UserError, which says of `what`, for a malformed one."""
    if value is None or value != value:  # NaN and pandas' NaT
        return UNKNOWN
    if isinstance(value, datetime):
        time = ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) / timedelta(milliseconds=1)
    else:
        try:
            time = float(value) if isinstance(value, Real) else np.nan
        except OverflowError:  # an integer beyond all floats
            time = np.inf
    if not EARLIEST_MS <= time < LATEST_MS:
        raise UserError(
            f"{what} has the timestamp {value!r}; expected a datetime, or milliseconds since 1970 (after 1973)"
        )
    return round(time * 1000) // 1000  # microseconds first, as in preparation
