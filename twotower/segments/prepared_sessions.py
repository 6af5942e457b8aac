"""Histories from the prepared sessions of a run. Shapes: S histories, E events of all of them, K event inputs."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.event_codes import TIME, time_codes
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, ITEM_ID, PAD, Prepared, open_prepared
from twotower.runs.layout import DATA_FILE
from twotower.runs.run import require_same_data
from twotower.segments.user_histories import POSITION, Histories
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import rows_of

Ints = npt.NDArray[np.int64]


def prepared_sessions(run_path: Path, check: bool = True) -> Prepared:
    """Open the prepared directory of a run; raises UserError where it is missing, or has other data now.

    Args:
        run_path: the run directory.
        check: whether to read all files and compare checksums.
    """
    try:
        prepared = open_prepared(read_json(run_path / DATA_FILE, "a run directory")["path"], check)
        require_same_data(run_path, prepared)
    except UserError as error:
        raise UserError(f"{error}; or take the histories from a file: events=events.parquet") from None
    return prepared


def run_sessions(bundle: Bundle, run_path: Path, newest: int | None = None) -> Histories:
    """Return the prepared sessions of a run: training, validation and test.

    Args:
        bundle: of that run.
        run_path: the run directory.
        newest: number of sessions, those that begin last; None: all.

    Raises:
        UserError: the prepared directory is missing, or has other data now.
    """
    prepared = prepared_sessions(run_path)
    total = len(prepared.offsets) - 1
    first = 0 if newest is None else max(0, total - newest)
    begin = int(prepared.offsets[first])
    offsets = np.asarray(prepared.offsets[first:]) - begin
    ids = pq.read_table(run_path / CATALOGUE_FILE, columns=[ITEM_ID])[ITEM_ID].combine_chunks()
    item_index = np.concatenate([[PAD], rows_of(ids.cast(bundle.item_ids.type), bundle.item_ids) + 1]).astype(np.int32)
    inputs = {name: prepared.timestamp if name == TIME else prepared.inputs[name] for name in bundle.inputs}

    def codes(start: int, stop: int) -> Ints:
        events = slice(begin + int(offsets[start]), begin + int(offsets[stop]))
        table = np.empty((events.stop - events.start, len(inputs)), dtype=np.int64)
        for k, (name, column) in enumerate(inputs.items()):
            table[:, k] = time_codes(column[events]) if name == TIME else column[events]
        return table

    types = prepared.event_types
    return Histories(
        POSITION,
        pa.array(np.arange(first, total)),
        item_index[prepared.item_index[begin:]],
        offsets,
        prepared.event_type[begin:],
        types if len(types) > 1 else [],
        codes,
    )
