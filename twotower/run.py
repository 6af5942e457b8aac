"""The run directory (hand-off 2): what a training run leaves, and how to get its model back.

config.yaml          the resolved configuration
data.json            the prepared directory's manifest and path
catalogue.parquet    item ids by row, with their counts
features.json        how values become codes; item_features.npz: the items' codes, by row
audit.json           what the audit of the data found; card.html: the data card (both where preparation left them)
fitted.json          once an epoch is picked: {"best_epoch", "summary": of the training, "validated": {epoch: metrics}}
histories.json       a sample of validation histories, for the export's proofs and index: {"item_index": [Q][l],
                     "codes": {name of an event input: [Q][l]}}
environment.json     git commit and versions
checkpoints/         refit.safetensors (if asked for), best.safetensors; while it runs, last and refit_last, too
metrics.json         flat results: test/recall_at_20, baseline/item_knn/recall_at_20, ...
assessment.json      the test with intervals, by kind of query: see evaluation.assessment.assess
report.html          all of that to look at
answers.npz          the model's answers to the test's queries: see evaluation.record
train.log

No id of a user or a session is in any of them. Shapes: Q histories, l events each, K event inputs, V items.
"""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from twotower.batch import build_history
from twotower.checkpoint import read_checkpoint
from twotower.errors import UserError, nearest
from twotower.files import read_json, write_bytes, write_json
from twotower.inputs import GAP, TIME, TIME_SIZE, time_codes
from twotower.model.event_inputs import EventInputs
from twotower.model.two_tower import TwoTower
from twotower.schema import (
    AUDIT_FILE,
    CARD_FILE,
    CATALOGUE_FILE,
    FEATURES_FILE,
    ITEM_FEATURES_FILE,
    Prepared,
    read_item_features,
)

CONFIG_FILE = "config.yaml"
FITTED_FILE = "fitted.json"
DATA_FILE = "data.json"
HISTORIES_FILE = "histories.json"
METRICS_FILE = "metrics.json"
ASSESSMENT_FILE = "assessment.json"
REPORT_FILE = "report.html"
ENVIRONMENT_FILE = "environment.json"
COPIED = (CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE, AUDIT_FILE, CARD_FILE)  # from the prepared directory
FOLDER = "checkpoints"
REFIT, BEST, LAST, REFIT_LAST = (f"{name}.safetensors" for name in ("refit", "best", "last", "refit_last"))
CHECKPOINTS = (REFIT, BEST, LAST)  # the first that exists is the run's model
SAMPLE = 1024  # histories kept for proofs, and to choose the bundle's index by
Array = npt.NDArray[Any]
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "polars", "mlflow", "numpy", "twotower")


@dataclass(frozen=True)
class Run:
    """A run that has been loaded: the model stands in evaluation mode, on the CPU."""

    path: Path
    config: DictConfig
    data: dict[str, Any]
    metrics: dict[str, float]
    model: TwoTower


class History(NamedTuple):
    """What the user tower sees of one session, oldest event first."""

    item_index: npt.NDArray[np.int64]  # [l]
    codes: npt.NDArray[np.int64]  # [l, K] of the model's event inputs


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


def write_config(path: Path, config: DictConfig) -> None:
    """Write the resolved configuration: from now on there is a run that can be gone on with."""
    (path / FOLDER).mkdir(parents=True, exist_ok=True)
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


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that is the run's model; raises UserError when there is none yet."""
    for name in CHECKPOINTS:
        if (path / FOLDER / name).is_file():
            return path / FOLDER / name
    raise UserError(f"{path} has no checkpoint yet; let training reach its first validation")


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


def environment() -> dict[str, Any]:
    """Git commit (with a mark where the tree was changed), Python and package versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"git_commit": git_commit(), "python": platform.python_version(), "packages": versions}


def git_commit() -> str | None:
    """Of this code, with a mark where it was changed; None where git does not know."""
    try:
        here = Path(__file__).parent
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
