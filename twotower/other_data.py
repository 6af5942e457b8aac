"""Events of any data in the numbers of one run: what it takes to test a model on what it was not trained with.

Shapes: E events, K of them kept, S sessions, V items of the run, W of the data.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.errors import UserError
from twotower.files import read_json
from twotower.inputs import EVENT_TYPE, GAP, HOUR, TIME, WEEKDAY
from twotower.run import Run, input_sizes
from twotower.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared

Array = npt.NDArray[Any]


def in_numbers_of(run: Run, prepared: Prepared) -> tuple[Prepared, Array]:
    """The events whose items the run knows, with its item indices and its codes; all others are left out.

    Returns:
        The events, and [K] where each of them lies among those given.

    Raises:
        UserError: not one item is known, or an event input means other things here than in the run.
    """
    _require_same_meaning(run, prepared)
    known = _rows(run.path, prepared.path)
    item_index = known[np.asarray(prepared.item_index)]
    kept = item_index > 0
    if not kept.any():
        raise UserError(f"{prepared.path} and {run.path} have no item in common; are the ids of one kind?")
    before = np.concatenate([[0], np.cumsum(kept)])
    columns = {name: np.asarray(getattr(prepared, name))[kept] for name in ("event_type", "timestamp")}
    bounds = {name: before[getattr(prepared, name)] for name in ("offsets", "train_end", "validation_end")}
    found = replace(
        prepared,
        path=run.path,  # whose catalogue and features are meant from here on
        manifest={**prepared.manifest, "num_items": run.data["num_items"]},
        item_index=item_index[kept],
        inputs={name: np.asarray(codes)[kept] for name, codes in prepared.inputs.items()},
        **columns,
        **bounds,
    )
    return found, np.flatnonzero(kept)


def _rows(run: Path, data: Path) -> Array:
    """[W + 1] the run's item_index of each of the data's; 0 where the run does not know the item."""
    ours, theirs = (pq.read_table(path / CATALOGUE_FILE)["item_id"].combine_chunks() for path in (run, data))
    if ours.type != theirs.type:
        ours, theirs = ours.cast(pa.string()), theirs.cast(pa.string())
    place = pc.index_in(theirs, value_set=ours).fill_null(-1).to_numpy()
    return np.concatenate([[0], place + 1])


def _require_same_meaning(run: Run, prepared: Prepared) -> None:
    """Codes of event inputs are those of one vocabulary."""
    sizes = input_sizes(run.config, run.data)
    if EVENT_TYPE in sizes and run.data["event_types"] != prepared.event_types:
        raise UserError(
            f"the model learns from event types, {', '.join(run.data['event_types'])}; this data has "
            f"{', '.join(prepared.event_types)}: give it the same ones"
        )
    ours, theirs = (
        read_json(path / FEATURES_FILE, "a run or a prepared directory") for path in (run.path, prepared.path)
    )
    for name in sizes.keys() - {EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME}:
        if ours["events"].get(name) != theirs["events"].get(name):
            raise UserError(
                f"the model's input {name} has other codes in this data; prepare it with the run's own values"
            )
