"""Build the model that a resolved configuration describes; conf/model is its schema."""

import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.core.errors import UserError, nearest
from twotower.core.event_codes import GAP, TIME, TIME_SIZE
from twotower.model.event_inputs import EventInputs
from twotower.model.two_tower import TwoTower

Array = npt.NDArray[Any]
FEWEST_ITEMS = 10  # that the temperature counts: of a catalogue of one, the logarithm is 0


def build_model(settings: DictConfig, data: Mapping[str, Any], item_features: Mapping[str, Array]) -> TwoTower:
    """Return the towers with fresh weights.

    Args:
        settings: the configuration's group `model`.
        data: the prepared directory's manifest.
        item_features: the arrays of its ITEM_FEATURES_FILE.

    Raises:
        UserError: settings that contradict each other or the data.
    """
    sizes, dim = list(settings.matryoshka), settings.dim
    if len(set(sizes)) < len(sizes) or not all(0 < size < dim for size in sizes):
        raise UserError(f"model.matryoshka={sizes}; expected different sizes, from 1 up to less than model.dim={dim}")
    if settings.residual and not settings.tied:
        raise UserError("model.tied=false: the residual adds candidates' own vectors; take model/residual=none with it")
    item_tower, *history_tower = [
        instantiate(settings.item_tower, num_items=int(data["num_items"]), item_features=item_features)
        for _ in range(1 if settings.tied else 2)
    ]
    event_inputs = EventInputs(input_sizes(settings, data), dim)
    residual = instantiate(settings.residual) if settings.residual else None
    user_tower = instantiate(settings.user_tower)
    pointer = None
    if settings.get("pointer"):  # runs of before have no such key
        pointer = instantiate(settings.pointer, temperature=temperature_of(settings, int(data["num_items"])))
    objective = None
    if settings.get("objective"):
        types = data["event_types"]
        if len(types) < 2:
            raise UserError(f"model/objective: the data has one event type, {types[0]}; take model/objective=none")
        objective = instantiate(settings.objective, num_types=len(types))
    history = history_tower[0] if history_tower else None
    query_time = bool(settings.get("query_time"))
    return TwoTower(
        item_tower, event_inputs, user_tower, residual, settings.normalize, history, pointer, objective, query_time
    )


def temperature_of(settings: DictConfig, num_items: int) -> float:
    """Return what divides similarities: model.temperature or, where it is null, what follows from the catalogue.

    At 1 / ln(V) the largest cosine similarity, 1, weighs as much in the softmax as V items of similarity 0: a colder
    softmax fits small catalogues too closely, a warmer one cannot be sure of one item in a large one.
    Source: experiments/2026-11-30-public-logs.md.

    >>> round(temperature_of(DictConfig({"temperature": None, "normalize": True}), num_items=22026), 4)
    0.1
    """
    if settings.temperature is not None:
        return float(settings.temperature)
    return 1 / math.log(max(num_items, FEWEST_ITEMS)) if settings.normalize else 1.0


def input_sizes(settings: DictConfig, data: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of codes of each event input, in the model's order.

    The inputs are those of `model.inputs`, then `time` where the user tower has `time_bias`.

    Args:
        settings: the configuration's group `model`.
        data: the prepared directory's manifest.

    Raises:
        UserError: an input is named twice, or the data lacks it; or `query_time` without a tower that knows times.
    """
    if len(set(settings.inputs)) < len(settings.inputs):
        raise UserError(f"model.inputs={list(settings.inputs)} names one input twice; expected each once")
    for name in settings.inputs:
        if name not in data["inputs"]:
            raise UserError(
                f"model.inputs has {name}; the prepared events have {', '.join(data['inputs']) or 'none'}"
                f"{nearest(name, data['inputs'])}"
            )
    sizes = {name: int(data["inputs"][name]) for name in settings.inputs}
    timed = settings.user_tower.get("time_bias")
    if settings.get("query_time") and not timed:
        raise UserError(
            "model.query_time=true needs a user tower with a bias by time: take model/user_tower=transformer, and do "
            "not set its time_bias to false"
        )
    if timed:
        if GAP not in data["inputs"]:
            raise UserError(
                "model.user_tower.time_bias=true needs times, and this data's timestamps tell the order alone; "
                "set it to false (with it model.query_time), or prepare the data with its data.timestamp_unit"
            )
        sizes[TIME] = TIME_SIZE
    return sizes
