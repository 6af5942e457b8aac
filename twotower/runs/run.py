"""The run directory: written before training, read back with its model. Its files are named in runs.layout."""

from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.files import read_json, write_bytes, write_json
from twotower.core.schema import MANIFEST_FILE, Prepared, read_item_features
from twotower.model.two_tower import TwoTower
from twotower.runs import layout
from twotower.runs.build import build_model, input_sizes
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.environment import environment
from twotower.runs.histories import sample_histories


@dataclass(frozen=True)
class Run:
    """A loaded run; its model is in evaluation mode, on the CPU."""

    path: Path
    config: DictConfig  # resolved
    data: dict[str, Any]  # the prepared directory's manifest, and its path
    metrics: dict[str, float]  # empty until the run is tested
    model: TwoTower


def write_config(path: Path, config_text: str) -> None:
    """Write the resolved configuration, in YAML; from now on the run can be resumed."""
    (path / layout.CHECKPOINTS_FOLDER).mkdir(parents=True, exist_ok=True)
    write_bytes(path / layout.CONFIG_FILE, config_text.encode())


def begin_run(path: Path, model_settings: DictConfig, prepared: Prepared, test_events: Array) -> None:
    """Write what the export needs beside a checkpoint, so that an interrupted run can be exported too.

    Args:
        path: the run directory.
        model_settings: the configuration's group `model`.
        prepared: the data.
        test_events: positions of the test's targets among the events.

    Raises:
        UserError: the run began with other data, whose item indices mean other items.
    """
    if (path / layout.ENVIRONMENT_FILE).exists():  # the file written last
        return require_same_data(path, prepared)
    write_json(path / layout.DATA_FILE, {"path": str(prepared.path), **prepared.manifest})
    for name in layout.COPIED:
        if (prepared.path / name).is_file():
            write_bytes(path / name, (prepared.path / name).read_bytes())
    inputs = list(input_sizes(model_settings, prepared.manifest))
    sample = sample_histories(prepared, model_settings.max_length, inputs, test_events)
    write_json(path / layout.HISTORIES_FILE, sample)
    write_json(path / layout.ENVIRONMENT_FILE, environment())


def differing_data(path: Path, prepared: Prepared) -> str:
    """Return how the data of the run in directory `path` differs from `prepared`; empty where it does not."""
    if not (path / layout.DATA_FILE).exists():
        return ""
    began, now = read_json(path / layout.DATA_FILE, "a run directory")["fingerprint"], prepared.manifest["fingerprint"]
    return "" if began == now else f"began with data of fingerprint {began}, and now it is {now}"


def require_same_data(path: Path, prepared: Prepared) -> None:
    """Raise UserError where the run in directory `path` began with other data."""
    if changed := differing_data(path, prepared):
        raise UserError(f"{path} {changed}; bring the old data back, or begin a new run")


def load_run(path: str | Path) -> Run:
    """Rebuild a run's model from its configuration and checkpoint; weights are loaded strictly, never unpickled.

    Raises:
        UserError: `path` is no run directory, it has no checkpoint yet, or a file is damaged.
    """
    path = Path(path)
    config = load_config(path)
    data = read_json(path / layout.DATA_FILE, "a run directory")
    try:
        model = build_model(config.model, data, read_item_features(path))
    except (ConfigAttributeError, InstantiationException) as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is a run of another version of this program ({reason}); train again") from None
    load_weights(model, layout.checkpoint_of(path))
    file = path / layout.METRICS_FILE
    metrics = read_json(file, "a run directory") if file.is_file() else {}
    return Run(path, config, data, metrics, model.eval())


def run_of_bundle(bundle: Path) -> Path | None:
    """Return the run that a bundle was exported from, where it lies beside the bundle or in ./runs; else None.

    The manifest has the run folder's name and the fingerprint of its data, no path: bundles travel.
    """
    manifest = read_json(bundle / MANIFEST_FILE, "a bundle")
    name = str(manifest["run"])
    for place in [bundle.resolve().parent / name, *sorted(Path("runs").rglob(escape(name)))]:
        data = place / layout.DATA_FILE
        if data.is_file() and read_json(data, "a run directory")["fingerprint"] == manifest["dataset_fingerprint"]:
            return place
    return None


def has_learnt_validation(path: Path) -> bool:
    """Whether the model of the run in directory `path` was trained on its validation data, too."""
    return layout.checkpoint_of(path).name == layout.REFIT


def lineage(path: Path) -> list[str]:
    """Return the fingerprints of all data that a run's model has learnt from: its own, then its warm starts'."""
    fingerprints = [str(read_json(path / layout.DATA_FILE, "a run directory")["fingerprint"])]
    file = path / layout.WARM_START_FILE
    began = read_json(file, "a run directory") if file.exists() else None
    while began:
        fingerprints.append(began["data_fingerprint"])
        began = began["before"]
    return fingerprints


def load_config(path: Path) -> DictConfig:
    """Return a run's resolved configuration; raises UserError where `path` is no run directory."""
    file = path / layout.CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{path} is not a run directory: it has no {file.name}; training prints a run's path last")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def load_weights(model: TwoTower, checkpoint: Path) -> None:
    """Copy a checkpoint's weights into `model`; raises UserError where names or shapes differ."""
    state = read_checkpoint(checkpoint)["state_dict"]
    weights = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        names = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise UserError(
            f"{checkpoint} has other weights than this version's model of its configuration ({names}); train again"
        ) from None
