"""The sample of validation histories that a run keeps for its export's proofs.

Shapes: l events of a history, K event inputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.batch import build_history
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.inputs import TIME, time_codes
from twotower.core.schema import Prepared
from twotower.runs.layout import HISTORIES_FILE

SAMPLE = 1024  # histories kept for proofs, and to choose the bundle's index by
Array = npt.NDArray[Any]


class History(NamedTuple):
    """What the user tower sees of one session, oldest event first."""

    item_index: npt.NDArray[np.int64]  # [l]
    codes: npt.NDArray[np.int64]  # [l, K] of the model's event inputs


def sample_histories(prepared: Prepared, max_length: int, inputs: Sequence[str]) -> dict[str, Any]:
    """Up to SAMPLE validation histories, evenly over time, as HISTORIES_FILE holds them."""
    sessions = np.flatnonzero(prepared.validation_end > prepared.train_end)  # they lie in the order in which they begin
    sessions = sessions[np.unique(np.linspace(0, len(sessions) - 1, min(SAMPLE, len(sessions))).astype(int))]
    end = prepared.validation_end[sessions]
    length = np.minimum(end - prepared.offsets[sessions], max_length)

    def newest(events: Array) -> list[list[int]]:
        rows = build_history(events, end, length, max_length)
        return [row[:count].tolist() for row, count in zip(rows, length, strict=True)]

    codes = {name: newest(prepared.inputs[name]) for name in inputs if name != TIME}
    if TIME in inputs:  # differences count, so a run need not tell when a session was
        times = [time_codes(np.array(row, dtype=np.int64)) for row in newest(prepared.timestamp)]
        codes[TIME] = [(1 + row - row[:1]).tolist() for row in times]
    return {"item_index": newest(prepared.item_index), "codes": codes}


def read_histories(path: Path, inputs: Sequence[str]) -> list[History]:
    """A run directory's sample, with the codes of `inputs` in their order; raises UserError where it is damaged."""
    file = path / HISTORIES_FILE
    content = read_json(file, "a run directory")
    try:
        columns = [content["item_index"], *(content["codes"][name] for name in inputs)]
        rows = [np.array(history, dtype=np.int64).reshape(len(columns), -1).T for history in zip(*columns, strict=True)]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}); train again") from None
    return [History(row[:, 0], row[:, 1:]) for row in rows if len(row)]
