"""When a request asks: at the newest event of each history, or at a time of its own. Shapes: Q histories."""

from collections.abc import Sequence
from datetime import datetime
from numbers import Real
from typing import Any

import numpy as np

from twotower.core.errors import UserError
from twotower.core.event_codes import AT_ONCE, TIME, time_codes
from twotower.serving.event_encoder import UNKNOWN, milliseconds
from twotower.serving.histories import KnownEvents, as_list
from twotower.serving.unknown import Unknown

KIND = "timestamps before the newest event"
TIMES = "a datetime or milliseconds since 1970, or a list of them, one for each history"


def asked_at(
    timestamp: Any, events: KnownEvents, inputs: Sequence[str], has_query_time: bool, unknown: Unknown
) -> KnownEvents:
    """Return `events` with the times of the query.

    Args:
        timestamp: one for all histories or Q of them, in the forms of an event's timestamp; None or NaN: AT_ONCE, as is
            one before the history's newest event, which is reported.
        events: of Q histories.
        inputs: names of the model's event inputs.
        has_query_time: whether the model uses a time of the query.
        unknown: what is reported to.

    Raises:
        UserError: a malformed time, not one for each history, or the model has no use for it.
    """
    if timestamp is None:
        return events
    if not has_query_time:
        raise UserError(
            f"timestamp is {timestamp!r}; this bundle has no query time: its model was trained with "
            "model.query_time=false. Leave it out"
        )
    queries = len(events.length)
    is_one = isinstance(timestamp, Real | datetime)
    values = [timestamp] if is_one else as_list(timestamp, "timestamp", TIMES)
    if not is_one and len(values) != queries:
        raise UserError(f"timestamp has {len(values)} times for {queries} histories; expected {TIMES}")
    times = np.array([milliseconds(value, "the request") for value in values], dtype=np.int64)
    now = np.resize(np.where(times == UNKNOWN, AT_ONCE, time_codes(times)), queries)
    newest = np.zeros(queries, dtype=np.int64)
    some = events.length > 0
    newest[some] = events.codes[events.end[some] - 1, inputs.index(TIME)]
    before = (now != AT_ONCE) & (now < newest)
    early = [values[0 if is_one else row] for row in np.flatnonzero(before)]
    unknown.note(KIND, early, queries, "times from the newest event of each history on")
    return events._replace(now=np.where(before, AT_ONCE, now))
