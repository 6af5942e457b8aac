"""From a resolved configuration to the model that it describes."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.core.errors import UserError, nearest
from twotower.core.inputs import GAP, TIME, TIME_SIZE
from twotower.model.event_inputs import EventInputs
from twotower.model.two_tower import TwoTower

Array = npt.NDArray[Any]


def build_model(config: DictConfig, data: Mapping[str, Any], item_features: Mapping[str, Array]) -> TwoTower:
    """The towers that a resolved configuration describes, with fresh weights.

    Args:
        config: the whole training configuration.
        data: the prepared directory's manifest.
        item_features: the arrays of its ITEM_FEATURES_FILE.
    """
    sizes, dim = list(config.model.matryoshka), config.model.dim
    if len(set(sizes)) < len(sizes) or not all(0 < size < dim for size in sizes):
        raise UserError(f"model.matryoshka={sizes}; expected different sizes, from 1 up to less than model.dim={dim}")
    towers = [
        instantiate(config.model.item_tower, num_items=int(data["num_items"]), item_features=item_features)
        for _ in range(1 if config.model.tied else 2)
    ]
    event_inputs = EventInputs(input_sizes(config, data), config.model.dim)
    residual = instantiate(config.model.residual) if config.model.residual else None
    if residual is not None and not config.model.tied:
        raise UserError("model.tied=false: the residual adds candidates' own vectors; take model/residual=none with it")
    return TwoTower(
        towers[0], event_inputs, instantiate(config.model.user_tower), residual, config.model.normalize, *towers[1:]
    )


def input_sizes(config: DictConfig, data: Mapping[str, Any]) -> dict[str, int]:
    """The model's event inputs in their order, and how many codes each has; `data` is the prepared manifest.

    They are those of model.inputs, and `time` where the user tower learns from the time between events.
    """
    if len(set(config.model.inputs)) < len(config.model.inputs):
        raise UserError(f"model.inputs={list(config.model.inputs)} names one input twice; expected each once")
    for name in config.model.inputs:
        if name not in data["inputs"]:
            raise UserError(
                f"model.inputs has {name}; the prepared events have {', '.join(data['inputs']) or 'none'}"
                f"{nearest(name, data['inputs'])}"
            )
    sizes = {name: int(data["inputs"][name]) for name in config.model.inputs}
    if config.model.user_tower.get("time_bias"):
        if GAP not in data["inputs"]:
            raise UserError(
                "model.user_tower.time_bias=true needs times, and this data's timestamps tell the order alone; "
                "set it to false, or prepare the data with its data.timestamp_unit"
            )
        sizes[TIME] = TIME_SIZE
    return sizes
