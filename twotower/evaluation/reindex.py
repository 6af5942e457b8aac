"""Express other data in a model's item indices and codes, to test the model on data that it was not trained with.

Shapes: E events, K of them kept, V items of the model, W items of the data.
"""

import logging
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
log = logging.getLogger(__name__)


class ModelVocabulary(NamedTuple):
    """What a model's item indices and codes stand for."""

    path: Path  # of the run or the bundle
    fingerprint: str  # of its data
    item_ids: pa.Array  # [V]
    inputs: list[str]  # event inputs
    event_types: dict[str, int]  # name -> code of the event input; in the order of their own codes
    encoders: Mapping[str, Any]  # of event features


def vocabulary_of_run(run: Run) -> ModelVocabulary:
    """Return what the indices and codes of a run stand for."""
    inputs = list(input_sizes(run.config.model, run.data))
    features = read_json(run.path / FEATURES_FILE, "a run directory")
    types = dict(zip(features["event_types"], features["input_types"], strict=True))
    return ModelVocabulary(run.path, run.data["fingerprint"], item_ids(run.path), inputs, types, features["events"])


def has_items_of(model: ModelVocabulary, prepared: Prepared) -> bool:
    """Return whether the catalogue of the data is that of the model, item by item."""
    index = model_index(model.item_ids, item_ids(prepared.path))
    return np.array_equal(index, np.arange(len(model.item_ids) + 1))


def reindex_to_model(model: ModelVocabulary, prepared: Prepared) -> tuple[Prepared, Array]:
    """Drop events of items that the model does not know, and replace item indices and event types by the model's.

    Types that the data has and the model has not follow those of the model, and are unknown (0) as an input.

    Returns:
        The events, and [K] the position of each among those given.

    Raises:
        UserError: no item is known, or an event feature has other codes here than in the model.
    """
    _require_same_codes(model, prepared)
    item_index = model_index(model.item_ids, item_ids(prepared.path))[np.asarray(prepared.item_index)]
    kept = item_index > 0
    if not kept.any():
        raise UserError(f"{prepared.path} and {model.path} have no item in common; are the ids of one kind?")
    before = np.concatenate([[0], np.cumsum(kept)])
    names, event_type, type_input = _model_types(model, prepared)
    inputs = {**prepared.inputs, EVENT_TYPE: type_input}
    bounds = {name: before[getattr(prepared, name)] for name in ("offsets", "train_end", "validation_end")}
    reindexed = replace(
        prepared,
        path=model.path,  # from here on, catalogue and features are the model's
        manifest={**prepared.manifest, "num_items": len(model.item_ids), "event_types": names},
        item_index=item_index[kept],
        inputs={name: np.asarray(codes)[kept] for name, codes in inputs.items()},
        event_type=event_type[kept],
        timestamp=np.asarray(prepared.timestamp)[kept],
        **bounds,
    )
    return reindexed, np.flatnonzero(kept)


def item_ids(path: Path) -> pa.Array:
    """Return [V] the item ids of a run or a prepared directory, by row."""
    return pq.read_table(path / CATALOGUE_FILE, columns=["item_id"])["item_id"].combine_chunks()


def model_index(model_ids: pa.Array, data_ids: pa.Array) -> Array:
    """Return [W + 1] the model's item_index of each item_index of the data; 0 where the model lacks the item."""
    if model_ids.type != data_ids.type:
        model_ids, data_ids = model_ids.cast(pa.string()), data_ids.cast(pa.string())
    return np.concatenate([[0], rows_of(data_ids, model_ids) + 1])


def _model_types(model: ModelVocabulary, prepared: Prepared) -> tuple[list[str], Array, Array]:
    """Return the model's event types and those that only the data has, and [E] each event's type and its input code."""
    code = np.asarray(prepared.event_type)
    new = [name for name in prepared.event_types if name not in model.event_types]
    if new and EVENT_TYPE in model.inputs:
        counts = np.bincount(code, minlength=len(prepared.event_types))
        told = ", ".join(f"'{name}' ({counts[prepared.event_types.index(name)]:,})" for name in new)
        share = sum(counts[prepared.event_types.index(name)] for name in new) / max(1, len(code))
        log.warning(
            "event types of %.1f%% of the events are new to the model, which takes them as unknown: %s; it knows %s",
            100 * share, told, ", ".join(model.event_types),
        )  # fmt: skip
    names = [*model.event_types, *new]
    own = np.array([names.index(name) for name in prepared.event_types], dtype=np.min_scalar_type(len(names)))
    as_input = np.array([model.event_types.get(name, 0) for name in prepared.event_types], dtype=np.int64)
    return names, own[code], as_input[code]


def _require_same_codes(model: ModelVocabulary, prepared: Prepared) -> None:
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["events"]
    for name in set(model.inputs) - {EVENT_TYPE, GAP, HOUR, WEEKDAY, TIME}:
        if model.encoders.get(name) != encoders.get(name):
            raise UserError(
                f"the model's input {name} has other codes in this data; prepare it with the model's own values"
            )
