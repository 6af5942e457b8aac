"""Express other data in a model's item indices and codes, to test the model on data that it was not trained with.

Shapes: E events, K of them kept, V items of the model, W items of the data.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.event_codes import EVENT_TYPE, GAP, HOUR, TIME, WEEKDAY
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared
from twotower.runs.build import input_sizes
from twotower.runs.run import Run
from twotower.serving.catalogue import rows_of

Array = npt.NDArray[Any]


class ModelVocabulary(NamedTuple):
    """What a model's item indices and codes stand for."""

    path: Path  # of the run or the bundle
    fingerprint: str  # of its data
    item_ids: pa.Array  # [V]
    inputs: list[str]  # event inputs
    event_types: list[str]  # by code
    encoders: Mapping[str, Any]  # of event features


def vocabulary_of_run(run: Run) -> ModelVocabulary:
    """Return what the indices and codes of a run stand for."""
    inputs = list(input_sizes(run.config.model, run.data))
    events = read_json(run.path / FEATURES_FILE, "a run directory")["events"]
    return ModelVocabulary(run.path, run.data["fingerprint"], _ids(run.path), inputs, run.data["event_types"], events)


def has_items_of(model: ModelVocabulary, prepared: Prepared) -> bool:
    """Return whether the catalogue of the data is that of the model, item by item."""
    index = _model_index(model.item_ids, _ids(prepared.path))
    return np.array_equal(index, np.arange(len(model.item_ids) + 1))


def reindex_to_model(model: ModelVocabulary, prepared: Prepared) -> tuple[Prepared, Array]:
    """Drop events of items that the model does not know, and replace item indices by the model's.

    Returns:
        The events, and [K] the position of each among those given.

    Raises:
        UserError: no item is known, or an event input has other codes here than in the model.
    """
    _require_same_codes(model, prepared)
    item_index = _model_index(model.item_ids, _ids(prepared.path))[np.asarray(prepared.item_index)]
    kept = item_index > 0
    if not kept.any():
        raise UserError(f"{prepared.path} and {model.path} have no item in common; are the ids of one kind?")
    before = np.concatenate([[0], np.cumsum(kept)])
    columns = {name: np.asarray(getattr(prepared, name))[kept] for name in ("event_type", "timestamp")}
    bounds = {name: before[getattr(prepared, name)] for name in ("offsets", "train_end", "validation_end")}
    reindexed = replace(
        prepared,
        path=model.path,  # from here on, catalogue and features are the model's
        manifest={**prepared.manifest, "num_items": len(model.item_ids)},
        item_index=item_index[kept],
        inputs={name: np.asarray(codes)[kept] for name, codes in prepared.inputs.items()},
        **columns,
        **bounds,
    )
    return reindexed, np.flatnonzero(kept)


def _ids(path: Path) -> pa.Array:
    return pq.read_table(path / CATALOGUE_FILE, columns=["item_id"])["item_id"].combine_chunks()


def _model_index(model_ids: pa.Array, data_ids: pa.Array) -> Array:
    """Return [W + 1] the model's item_index of each item_index of the data; 0 where the model lacks the item."""
    if model_ids.type != data_ids.type:
        model_ids, data_ids = model_ids.cast(pa.string()), data_ids.cast(pa.string())
    return np.concatenate([[0], rows_of(data_ids, model_ids) + 1])


def _require_same_codes(model: ModelVocabulary, prepared: Prepared) -> None:
    if EVENT_TYPE in model.inputs and model.event_types != prepared.event_types:
        raise UserError(
            f"the model was trained with event types {', '.join(model.event_types)}; this data has "
            f"{', '.join(prepared.event_types)}: prepare it with the same ones"
        )
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["events"]
    for name in set(model.inputs) - {EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME}:
        if model.encoders.get(name) != encoders.get(name):
            raise UserError(
                f"the model's input {name} has other codes in this data; prepare it with the model's own values"
            )
