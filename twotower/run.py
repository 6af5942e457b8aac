"""The run directory (hand-off 2): what a training run leaves, and how to get its model back.

config.yaml          the resolved configuration
data.json            the prepared directory's manifest and path
catalogue.parquet    item ids by row, with their counts
histories.json       a sample of validation histories (item_index), for proofs at export
environment.json     git commit and versions
checkpoints/         refit.ckpt (if asked for), best.ckpt, last.ckpt
metrics.json         flat results: test/recall_at_20, baseline/item_knn/recall_at_20, ...
train.log
"""

import pickle
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from twotower.batch import build_history
from twotower.errors import UserError
from twotower.files import read_json, write_bytes, write_json
from twotower.model.two_tower import TwoTower
from twotower.schema import CATALOGUE_FILE, PAD, Prepared

CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
HISTORIES_FILE = "histories.json"
METRICS_FILE = "metrics.json"
ENVIRONMENT_FILE = "environment.json"
CHECKPOINTS = ("refit.ckpt", "best.ckpt", "last.ckpt")  # the first that exists is the run's model
SAMPLE = 64  # histories kept for proofs
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "polars", "mlflow", "numpy", "twotower")


@dataclass(frozen=True)
class Run:
    """A run that has been loaded: the model stands in evaluation mode, on the CPU."""

    path: Path
    config: DictConfig
    data: dict[str, Any]
    metrics: dict[str, float]
    model: TwoTower


def build_model(config: DictConfig, num_items: int) -> TwoTower:
    """The towers that a resolved configuration describes, with fresh weights."""
    item_tower = instantiate(config.model.item_tower, num_items=num_items)
    return TwoTower(item_tower, instantiate(config.model.user_tower))


def begin_run(path: Path, config: DictConfig, prepared: Prepared) -> None:
    """Write all that is known before training, so that an interrupted run can be exported too."""
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_bytes(path / CONFIG_FILE, OmegaConf.to_yaml(config, resolve=True).encode())
    write_json(path / DATA_FILE, {"path": str(prepared.path), **prepared.manifest})
    write_bytes(path / CATALOGUE_FILE, (prepared.path / CATALOGUE_FILE).read_bytes())
    write_json(path / HISTORIES_FILE, sample_histories(prepared, config.model.max_length))
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
    model = build_model(config, int(data["num_items"]))
    load_weights(model, checkpoint_of(path))
    metrics = read_json(path / METRICS_FILE, "a run directory") if (path / METRICS_FILE).is_file() else {}
    return Run(path, config, data, metrics, model.eval())


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that is the run's model; raises UserError when there is none yet."""
    for name in CHECKPOINTS:
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise UserError(f"{path} has no checkpoint yet; let training reach its first validation")


def last_checkpoint(path: Path) -> Path:
    """The checkpoint that an interrupted run goes on from."""
    checkpoint = path / "checkpoints" / CHECKPOINTS[-1]
    if not checkpoint.is_file():
        raise UserError(f"there is no {checkpoint} to go on from; name a run folder as train.py printed it")
    return checkpoint


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint's contents: tensors and plain values, no code."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is missing, damaged or not a checkpoint: {reason}") from None
    return content


def sample_histories(prepared: Prepared, max_length: int) -> list[list[int]]:
    """Up to SAMPLE validation histories, evenly over time: item indices, oldest first."""
    sessions = np.flatnonzero(prepared.validation_end > prepared.train_end)
    if len(sessions) == 0:
        return []
    sessions = sessions[np.unique(np.linspace(0, len(sessions) - 1, SAMPLE).astype(int))]
    end = prepared.validation_end[sessions]
    rows = build_history(prepared.item_index, end, end - prepared.offsets[sessions], max_length)
    return [[int(i) for i in row if i != PAD] for row in rows]


def environment() -> dict[str, Any]:
    """Git commit (with a mark where the tree was changed), Python and package versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"git_commit": _git_commit(), "python": platform.python_version(), "packages": versions}


def _git_commit() -> str | None:
    try:
        here = Path(__file__).parent
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
