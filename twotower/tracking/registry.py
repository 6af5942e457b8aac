"""Link a bundle to its MLflow run and, on request, register it as a model in the model registry."""

import logging
import math
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import ITEM_ID, ITEMS_FILE
from twotower.runs.run import Run
from twotower.serving.bundle_format import CURVE_FILE, MANIFEST_FILE, paths_by_name
from twotower.serving.http_request import PARAMS
from twotower.tracking.lookup import BUNDLE, MODELS, answering, client_of, find_run
from twotower.tracking.names import METRICS_PER_REQUEST, add_allowed_names

log = logging.getLogger(__name__)
MODEL = "retriever"  # name and type of the run's model
SHOWN = 20  # figures in a description
PACKAGE = Path(__file__).parents[1]
MODEL_FILE = Path(__file__).with_name("pyfunc_model.py")
CODE = ("core", "features", "serving")  # parts of this package that it needs
REQUIREMENTS = ("numpy", "faiss-cpu", "onnxruntime", "pyarrow", "mlflow")  # in the installed versions


def keep_bundle(run: Run, bundle: Path, name: str | None, alias: str) -> str | None:
    """Tag the bundle's MLflow run, and log the index's recall curve; with a name, also log and register the bundle.

    The registered model answers from the bundle: see twotower.tracking.pyfunc_model.

    Args:
        run: that the bundle was exported from.
        bundle: its folder.
        name: in the model registry; None: it is not registered.
        alias: of the new version in the registry, taken from the version that had it.

    Returns:
        `models:/NAME@ALIAS`, or None where it was not registered.

    Raises:
        UserError: it was to be registered, and MLflow has no such run or can't be reached; the bundle stays.
    """
    try:
        return _send(run, bundle, name, alias)
    except UserError as error:
        if name is not None:
            raise UserError(f"the bundle is whole, but it can't be registered as {name}: {error}") from None
        log.debug("the bundle is not linked to an MLflow run: %s", error)
        return None


def require_registrable(run: Run, name: str, alias: str) -> None:
    """Raise UserError where `keep_bundle` would refuse names, or finds no MLflow run; nothing is sent.

    An alias that a promotion has moved is refused, too: `twotower promote` asks the gate before it moves it again.
    """
    require_names(name, alias)
    try:
        client, _ = _known(run)
    except UserError as error:
        raise UserError(f"register={name}: {error}") from None
    with answering(run.config.logger.tracking_uri):
        models = client.search_registered_models(f"name = '{name}'")
        holder = models[0].aliases.get(alias) if models else None
        promoted = holder is not None and f"{alias}.gate" in client.get_model_version(name, str(holder)).tags
    if promoted:
        raise UserError(
            f"alias={alias}: a promotion has given it to version {holder} of {name}; register the new one as a "
            f"candidate, then: {command('promote', f'{MODELS}{name}@candidate', f'champion={MODELS}{name}@{alias}')}"
        )


def require_names(name: str, alias: str) -> None:
    """Raise UserError for a name or an alias that MLflow's registry does not take."""
    if not name or re.search("[/:@]", name):
        raise UserError(f"register={name!r}; expected a name without / : @")
    if not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise UserError(f"alias={alias!r}; expected letters, digits, _ and -, neither `latest` nor a version as `v1`")


def registered_version(run: Run, name: str) -> str | None:
    """Return the newest version of a registered model that was made of this run; None where there is none."""
    client, known = _known(run)
    with answering(run.config.logger.tracking_uri):
        versions = client.search_model_versions(f"name = '{name}' and run_id = '{known.info.run_id}'")
    return max((str(version.version) for version in versions), key=int, default=None)


def _known(run: Run) -> tuple[Any, Any]:
    """MLflow's client, and its record of a run; raises UserError where there is none."""
    logger = run.config.logger
    client = client_of(logger.tracking_uri) if logger else None
    if client is None:
        raise UserError(f"{run.path} was trained without MLflow, or its database is gone")
    with answering(logger.tracking_uri):
        known = find_run(client, logger.experiment_name, str(Path(run.config.run_dir).resolve()))
    if known is None:
        raise UserError(f"MLflow at {logger.tracking_uri} has no run of {run.config.run_dir}")
    return client, known


def _send(run: Run, bundle: Path, name: str | None, alias: str) -> str | None:
    client, known = _known(run)
    run_id = known.info.run_id
    with answering(run.config.logger.tracking_uri):
        client.set_tag(run_id, BUNDLE, str(bundle.resolve()))
        if name is None:
            if (bundle / CURVE_FILE).is_file():
                client.log_artifact(run_id, str(bundle / CURVE_FILE), BUNDLE)
            return None
        client.log_artifacts(run_id, str(bundle), BUNDLE)
        model = _log_model(client, known.info, bundle)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        tags, description = _labels(read_json(bundle / MANIFEST_FILE, "a bundle"))
        source = model.artifact_location
        number = client.create_model_version(
            name, source, run_id, tags, description=description, model_id=model.model_id
        ).version
        client.set_registered_model_alias(name, alias, number)
    return f"models:/{name}@{alias}"


def _log_model(client: Any, run: Any, bundle: Path) -> Any:
    """Log a model that answers from the bundle to an MLflow run, and return MLflow's record of it.

    mlflow.log_model would do so for the run and experiment that are global in this process.
    """
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.models import Model

    manifest = read_json(bundle / MANIFEST_FILE, "a bundle")
    tags, _ = _labels(manifest)
    model = client.create_logged_model(run.experiment_id, MODEL, run.run_id, tags, model_type=MODEL)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            record = Model(model.artifact_location, run.run_id, model_uuid=model.model_id, model_id=model.model_id)
            save_model(bundle, Path(scratch) / "model", record)
            client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
        now, names = time.time_ns() // 1_000_000, dict[str, str]()
        figures = _figures(manifest)
        add_allowed_names(names, figures)
        metrics = [Metric(names[key], value, now, 0, model.model_id) for key, value in figures.items()]
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            client.log_batch(run.run_id, metrics[start : start + METRICS_PER_REQUEST])
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    return model


def _figures(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The model's metrics, and what was measured of the bundle, as far as they are finite."""
    measured = {f"{BUNDLE}/{name}": value for name, value in manifest.get("measured", {}).items()}
    return {name: value for name, value in {**manifest.get("metrics", {}), **measured}.items() if math.isfinite(value)}


def _labels(manifest: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Tags and a description of the model in words."""
    names = ("run", "dataset_fingerprint", "similarity", "dim", "num_items", "max_length", "format_version")
    tags = {name: str(manifest[name]) for name in names if name in manifest}
    tags |= {
        "index": str(manifest["index"]["factory"]),
        "inputs": ",".join(each["name"] for each in manifest["inputs"]),
        "lineage": ",".join(manifest.get("lineage", [])),
    }
    figures = [
        f"{name} {value:.4g}" for name, value in _figures(manifest).items() if name.startswith(("test/", BUNDLE))
    ]
    words = (
        f"Recommends items for histories of items or events: two towers of {manifest['dim']} numbers, "
        f"{manifest['num_items']:,} items, exported from {manifest.get('run', 'a run')}. The bundle's README.md, among "
        "the artifacts, says what a request holds"
    )
    return tags, f"{words}. {', '.join(figures[:SHOWN])}".rstrip(" .") + "."


def save_model(bundle: Path, path: Path, record: Any = None) -> None:
    """Write the MLflow model of a bundle: the bundle, the code that serves it, signature and requirements.

    Args:
        bundle: its folder.
        path: a new folder for the model.
        record: the mlflow.models.Model of a run's model; None: it belongs to no run.
    """
    import mlflow

    manifest = read_json(bundle / MANIFEST_FILE, "a bundle")
    items = bundle / paths_by_name(manifest)[ITEMS_FILE]
    ids = pq.read_table(items, columns=[ITEM_ID])[ITEM_ID]
    example = manifest.get("requests", {}).get("example", {"histories": [ids[:2].to_pylist()]})
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(MODEL_FILE),
            artifacts={BUNDLE: str(bundle)},
            code_paths=[str(_serving_code(Path(scratch)))],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            input_example=(example["histories"], PARAMS),
            mlflow_model=record,
        )


def _serving_code(scratch: Path) -> Path:
    """Copy the parts of this package that answer from a bundle, none of which needs torch, into `scratch`."""
    package = scratch / PACKAGE.name
    package.mkdir()
    shutil.copy(PACKAGE / "__init__.py", package)
    for room in CODE:
        shutil.copytree(PACKAGE / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    return package


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow, which logs each of its steps, and warns of item ids that can be of two types."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
