"""The sample of validation histories that a run keeps for its export's parity checks and index choice.

Shapes: l events of a history, K event inputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.batch import build_history
from twotower.core.errors import UserError
from twotower.core.event_codes import TIME, time_codes
from twotower.core.files import read_json
from twotower.core.schema import Prepared
from twotower.runs.layout import HISTORIES_FILE

SAMPLE = 1024  # histories
Array = npt.NDArray[Any]


class History(NamedTuple):
    """The user tower's input for one session, oldest event first.

    >>> History(np.array([4, 7]), np.array([[1], [2]])).item_index
    array([4, 7])
    """

    item_index: npt.NDArray[np.int64]  # [l]
    codes: npt.NDArray[np.int64]  # [l, K] of the model's event inputs


def sample_histories(prepared: Prepared, max_length: int, inputs: Sequence[str]) -> dict[str, Any]:
    """Return up to SAMPLE validation histories, evenly over time, in the form of HISTORIES_FILE."""
    sessions = np.flatnonzero(prepared.validation_end > prepared.train_end)  # in the order of their first events
    sessions = sessions[np.unique(np.linspace(0, len(sessions) - 1, min(SAMPLE, len(sessions))).astype(int))]
    end = prepared.validation_end[sessions]
    length = np.minimum(end - prepared.offsets[sessions], max_length)

    def newest(events: Array) -> list[list[int]]:
        rows = build_history(events, end, length, max_length)
        return [row[:count].tolist() for row, count in zip(rows, length, strict=True)]

    codes = {name: newest(prepared.inputs[name]) for name in inputs if name != TIME}
    if TIME in inputs:  # only differences count, so the run does not keep when a session was
        times = [time_codes(np.array(row, dtype=np.int64)) for row in newest(prepared.timestamp)]
        codes[TIME] = [(1 + row - row[:1]).tolist() for row in times]
    return {"item_index": newest(prepared.item_index), "codes": codes}


def read_histories(path: Path, inputs: Sequence[str]) -> list[History]:
    """Return a run directory's sample, with the codes of `inputs` in their order; raises UserError where damaged."""
    file = path / HISTORIES_FILE
    content = read_json(file, "a run directory")
    try:
        columns = [content["item_index"], *(content["codes"][name] for name in inputs)]
        rows = [np.array(history, dtype=np.int64).reshape(len(columns), -1).T for history in zip(*columns, strict=True)]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}); train again") from None
    return [History(row[:, 0], row[:, 1:]) for row in rows if len(row)]
