"""A run: begun, and loaded with its model. Its files are named in runs.layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_bytes, write_json
from twotower.core.schema import Prepared, read_item_features
from twotower.model.two_tower import TwoTower
from twotower.runs.build import build_model, input_sizes
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.environment import environment
from twotower.runs.histories import sample_histories
from twotower.runs.layout import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    COPIED,
    DATA_FILE,
    ENVIRONMENT_FILE,
    HISTORIES_FILE,
    METRICS_FILE,
    checkpoint_of,
)


@dataclass(frozen=True)
class Run:
    """A run that has been loaded: the model stands in evaluation mode, on the CPU."""

    path: Path
    config: DictConfig
    data: dict[str, Any]
    metrics: dict[str, float]
    model: TwoTower


def write_config(path: Path, config: DictConfig) -> None:
    """Write the resolved configuration: from now on there is a run that can be gone on with."""
    (path / CHECKPOINTS_FOLDER).mkdir(parents=True, exist_ok=True)
    write_bytes(path / CONFIG_FILE, OmegaConf.to_yaml(config, resolve=True).encode())


def begin_run(path: Path, config: DictConfig, prepared: Prepared) -> None:
    """Write all that is known before training, so that an interrupted run can be exported too."""
    write_config(path, config)
    write_json(path / DATA_FILE, {"path": str(prepared.path), **prepared.manifest})
    for name in COPIED:
        if (prepared.path / name).is_file():
            write_bytes(path / name, (prepared.path / name).read_bytes())
    inputs = list(input_sizes(config, prepared.manifest))
    write_json(path / HISTORIES_FILE, sample_histories(prepared, config.model.max_length, inputs))
    write_json(path / ENVIRONMENT_FILE, environment())


def require_same_data(path: Path, prepared: Prepared) -> None:
    """Raise UserError where a run would go on with other data than it began with: its item indices would lie."""
    began = read_json(path / DATA_FILE, "a run directory")["fingerprint"]
    if began != prepared.manifest["fingerprint"]:
        raise UserError(
            f"{path} began with data of fingerprint {began}, and now it is {prepared.manifest['fingerprint']}; "
            "bring the old data back, or begin a new run"
        )


def load_run(path: str | Path) -> Run:
    """Rebuild a run's model from its own configuration and checkpoint; weights are loaded strictly, unpickled never.

    Raises:
        UserError: `path` is no run directory, it has no checkpoint yet, or a file is damaged.
    """
    path = Path(path)
    config = load_config(path)
    data = read_json(path / DATA_FILE, "a run directory")
    try:
        model = build_model(config, data, read_item_features(path))
    except ConfigAttributeError as error:
        key = str(error).splitlines()[0]
        raise UserError(f"{path} is a run of another version of this program ({key}); train again") from None
    load_weights(model, checkpoint_of(path))
    metrics = read_json(path / METRICS_FILE, "a run directory") if (path / METRICS_FILE).is_file() else {}
    return Run(path, config, data, metrics, model.eval())


def load_config(path: Path) -> DictConfig:
    """A run's resolved configuration."""
    if not (path / CONFIG_FILE).is_file():
        raise UserError(f"{path} is not a run directory: it has no {CONFIG_FILE}; train.py prints a run's path last")
    config = OmegaConf.load(path / CONFIG_FILE)
    assert isinstance(config, DictConfig)
    return config


def load_weights(model: TwoTower, checkpoint: Path) -> None:
    """Put a checkpoint's weights into `model`, strictly."""
    weights = {
        key.removeprefix("model."): value
        for key, value in read_checkpoint(checkpoint)["state_dict"].items()
        if key.startswith("model.")
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise UserError(f"{checkpoint} does not fit the run's configuration: {error}") from None
