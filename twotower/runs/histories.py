"""What a run keeps for its export: validation histories to check and choose by, test queries to report figures of.

Shapes: l events of a history, K event inputs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import evenly
from twotower.core.batch import build_history
from twotower.core.errors import UserError
from twotower.core.event_codes import AT_ONCE, TIME, time_codes
from twotower.core.files import read_json
from twotower.core.schema import Prepared
from twotower.runs.layout import HISTORIES_FILE

SAMPLE = 1024  # histories
Array = npt.NDArray[Any]
T = TypeVar("T")


class History(NamedTuple):
    """The user tower's input for one session, oldest event first.

    >>> History(np.array([4, 7]), np.array([[1], [2]])).item_index
    array([4, 7])
    """

    item_index: npt.NDArray[np.int64]  # [l]
    codes: npt.NDArray[np.int64]  # [l, K] of the model's event inputs
    now: int = AT_ONCE  # the second at which it is asked about, in the clock of the input `time`


class SampledQueries(NamedTuple):
    """A sample of the test's queries, from which no model of the run has learnt."""

    histories: list[History]  # Q of them
    target: Array  # [Q] item_index
    session: Array  # [Q] any number that queries of one session share


def sample_histories(
    prepared: Prepared, max_length: int, inputs: Sequence[str], test_events: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """Return up to SAMPLE validation histories and SAMPLE test queries, evenly over time, in HISTORIES_FILE's form.

    Args:
        prepared: the data.
        max_length: of histories.
        inputs: names of the model's event inputs.
        test_events: positions of the test's targets.
    """
    sessions = np.flatnonzero(prepared.validation_end > prepared.train_end)  # in the order of their first events
    sessions = sessions[evenly(len(sessions), SAMPLE)]
    validation = _before(prepared, sessions, prepared.validation_end[sessions], max_length, inputs)
    target = np.sort(test_events)[evenly(len(test_events), SAMPLE)]
    session = np.searchsorted(prepared.offsets, target, side="right") - 1
    test = _before(prepared, session, target, max_length, inputs)
    test["target"] = prepared.item_index[target].tolist()
    test["session"] = np.unique(session, return_inverse=True)[1].tolist()  # a number that says nothing outside the file
    return validation | {"test": test}


def _before(prepared: Prepared, session: Array, end: Array, max_length: int, inputs: Sequence[str]) -> dict[str, Any]:
    """Return the newest `max_length` events of each session before the event `end`, items and codes."""
    length = np.minimum(end - prepared.offsets[session], max_length)

    def newest(events: Array) -> list[list[int]]:
        rows = build_history(events, end, length, max_length)
        return [row[:count].tolist() for row, count in zip(rows, length, strict=True)]

    codes = {name: newest(prepared.inputs[name]) for name in inputs if name != TIME}
    if TIME in inputs:  # only differences count, so the run does not keep when a session was
        times = [time_codes(np.array(row, dtype=np.int64)) for row in newest(prepared.timestamp)]
        codes[TIME] = [(1 + row - row[:1]).tolist() for row in times]
    return {"item_index": newest(prepared.item_index), "codes": codes}


def read_histories(path: Path, inputs: Sequence[str]) -> list[History]:
    """Return a run directory's validation histories, with codes in the order of `inputs`; UserError where damaged."""
    return _read(path / HISTORIES_FILE, lambda content: _histories(content, inputs))


def read_test_queries(path: Path, inputs: Sequence[str]) -> SampledQueries:
    """Return a run directory's test queries, none in runs of earlier versions; raises UserError where damaged."""

    def queries(content: Any) -> SampledQueries:
        test = content.get("test") or {"item_index": [], "codes": {name: [] for name in inputs}}
        histories = _histories(test, inputs)
        target, session = (np.array(test.get(name, []), dtype=np.int64) for name in ("target", "session"))
        if not len(histories) == len(target) == len(session):
            raise ValueError(f"{len(histories)} histories, {len(target)} targets, {len(session)} sessions")
        return SampledQueries(histories, target, session)

    return _read(path / HISTORIES_FILE, queries)


def _read(file: Path, parse: Callable[[Any], T]) -> T:
    content = read_json(file, "a run directory")
    try:
        return parse(content)
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}); train again") from None


def _histories(content: Any, inputs: Sequence[str]) -> list[History]:
    columns = [content["item_index"], *(content["codes"][name] for name in inputs)]
    rows = [np.array(history, dtype=np.int64).reshape(len(columns), -1).T for history in zip(*columns, strict=True)]
    return [History(row[:, 0], row[:, 1:]) for row in rows if len(row)]
