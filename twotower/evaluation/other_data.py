"""Events of any data in the numbers of one model: what it takes to test it on what it was not trained with.

Shapes: E events, K of them kept, S sessions, V items of the model, W of the data.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.inputs import EVENT_TYPE, GAP, HOUR, TIME, WEEKDAY
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared
from twotower.runs.build import input_sizes
from twotower.runs.run import Run

Array = npt.NDArray[Any]


class ModelVocabulary(NamedTuple):
    """What the numbers mean that a model was trained with."""

    path: Path  # of the run or the bundle
    fingerprint: str  # of its data
    item_ids: pa.Array  # [V]
    inputs: list[str]  # event inputs
    event_types: list[str]  # by code
    encoders: Mapping[str, Any]  # of event features


def vocabulary_of_run(run: Run) -> ModelVocabulary:
    """What the numbers of a run mean."""
    inputs = list(input_sizes(run.config, run.data))
    events = read_json(run.path / FEATURES_FILE, "a run directory")["events"]
    return ModelVocabulary(run.path, run.data["fingerprint"], _ids(run.path), inputs, run.data["event_types"], events)


def reindex_to_model(known: ModelVocabulary, prepared: Prepared) -> tuple[Prepared, Array]:
    """The events whose items the model knows, with its item indices and its codes; all others are left out.

    Returns:
        The events, and [K] where each of them lies among those given.

    Raises:
        UserError: not one item is known, or an event input means other things here than to the model.
    """
    _require_same_meaning(known, prepared)
    item_index = _rows(known.item_ids, _ids(prepared.path))[np.asarray(prepared.item_index)]
    kept = item_index > 0
    if not kept.any():
        raise UserError(f"{prepared.path} and {known.path} have no item in common; are the ids of one kind?")
    before = np.concatenate([[0], np.cumsum(kept)])
    columns = {name: np.asarray(getattr(prepared, name))[kept] for name in ("event_type", "timestamp")}
    bounds = {name: before[getattr(prepared, name)] for name in ("offsets", "train_end", "validation_end")}
    found = replace(
        prepared,
        path=known.path,  # whose catalogue and features are meant from here on
        manifest={**prepared.manifest, "num_items": len(known.item_ids)},
        item_index=item_index[kept],
        inputs={name: np.asarray(codes)[kept] for name, codes in prepared.inputs.items()},
        **columns,
        **bounds,
    )
    return found, np.flatnonzero(kept)


def _ids(path: Path) -> pa.Array:
    return pq.read_table(path / CATALOGUE_FILE, columns=["item_id"])["item_id"].combine_chunks()


def _rows(ours: pa.Array, theirs: pa.Array) -> Array:
    """[W + 1] the model's item_index of each of the data's; 0 where the model does not know the item."""
    if ours.type != theirs.type:
        ours, theirs = ours.cast(pa.string()), theirs.cast(pa.string())
    place = pc.index_in(theirs, value_set=ours).fill_null(-1).to_numpy()
    return np.concatenate([[0], place + 1])


def _require_same_meaning(known: ModelVocabulary, prepared: Prepared) -> None:
    """Codes of event inputs are those of one vocabulary."""
    if EVENT_TYPE in known.inputs and known.event_types != prepared.event_types:
        raise UserError(
            f"the model learns from event types, {', '.join(known.event_types)}; this data has "
            f"{', '.join(prepared.event_types)}: give it the same ones"
        )
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["events"]
    for name in set(known.inputs) - {EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME}:
        if known.encoders.get(name) != encoders.get(name):
            raise UserError(
                f"the model's input {name} has other codes in this data; prepare it with the model's own values"
            )
