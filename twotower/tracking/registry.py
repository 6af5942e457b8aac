"""What MLflow is told of a bundle: which run it comes from and, on request, a model of it in the model registry."""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import ITEM_ID, ITEMS_FILE
from twotower.runs.run import Run
from twotower.serving.http_request import PARAMS
from twotower.serving.manifest import CURVE_FILE, MANIFEST_FILE, places
from twotower.tracking.lookup import client_of, find_run

log = logging.getLogger(__name__)
FOLDER = "bundle"  # among the run's artifacts, and the model's
TAG = "bundle"
MODEL = "retriever"  # what the run calls the model
PACKAGE = Path(__file__).parents[1]
MODEL_FILE = Path(__file__).with_name("pyfunc_model.py")
CODE = ("__init__", "core", "features", "serving")  # what it needs
REQUIREMENTS = ("numpy", "faiss-cpu", "onnxruntime", "pyarrow", "mlflow")  # in the versions that are here


def keep_bundle(run: Run, bundle: Path, name: str | None, alias: str) -> str | None:
    """Tell the run in MLflow of its bundle and show it the index's curve; with a name, put the bundle there and
    register a model that answers from it (twotower.tracking.pyfunc_model).

    Args:
        run: where the bundle comes from.
        bundle: its folder.
        name: in the model registry; None: it is not registered.
        alias: what the registry calls this version from now on, and no other any more.

    Returns:
        `models:/NAME@ALIAS`, or None.

    Raises:
        UserError: it was to be registered, and MLflow has no such run or can't be reached; the bundle stays.
    """
    try:
        return _tell(run, bundle, name, alias)
    except UserError as error:
        if name is not None:
            raise UserError(f"the bundle is whole, but it can't be registered as {name}: {error}") from None
        log.debug("MLflow is not told of the bundle: %s", error)
        return None


def _tell(run: Run, bundle: Path, name: str | None, alias: str) -> str | None:
    logger = run.config.logger
    client = client_of(logger.tracking_uri) if logger else None
    if client is None:
        raise UserError(f"{run.path} was trained without MLflow, or its database is gone")
    from mlflow.exceptions import MlflowException

    try:
        known = find_run(client, logger.experiment_name, str(Path(run.config.run_dir).resolve()))
        if known is None:
            raise UserError(f"MLflow at {logger.tracking_uri} has no run of {run.config.run_dir}")
        run_id = known.info.run_id
        client.set_tag(run_id, TAG, str(bundle.resolve()))
        if name is None:
            if (bundle / CURVE_FILE).is_file():
                client.log_artifact(run_id, str(bundle / CURVE_FILE), FOLDER)
            return None
        client.log_artifacts(run_id, str(bundle), FOLDER)
        model = _log_model(client, known.info, bundle)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        number = client.create_model_version(name, model.artifact_location, run_id).version
        client.set_registered_model_alias(name, alias, number)
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at {logger.tracking_uri} says: {error}") from None
    return f"models:/{name}@{alias}"


def _log_model(client: Any, run: Any, bundle: Path) -> Any:
    """Give a run (MLflow's facts of it) a model that answers from the bundle; MLflow's facts of that.

    MLflow's log_model does the same for the run and the experiment that are global in this process.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    model = client.create_logged_model(run.experiment_id, MODEL, run.run_id, model_type="retriever")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            facts = Model(model.artifact_location, run.run_id, model_uuid=model.model_id, model_id=model.model_id)
            save_model(bundle, Path(scratch) / "model", facts)
            client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    return model


def save_model(bundle: Path, path: Path, facts: Any = None) -> None:
    """Write the MLflow model of a bundle at `path`: the bundle, the code that serves it, signature and requirements.

    Args:
        bundle: its folder.
        path: a new folder.
        facts: an mlflow.models.Model that knows where the model belongs; None: nowhere.
    """
    import mlflow

    items = bundle / places(read_json(bundle / MANIFEST_FILE, "a bundle"))[ITEMS_FILE]
    ids = pq.read_table(items, columns=[ITEM_ID])[ITEM_ID]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(MODEL_FILE),
            artifacts={FOLDER: str(bundle)},
            code_paths=[str(_serving_code(Path(scratch)))],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            input_example=([ids[:2].to_pylist()], PARAMS),
            mlflow_model=facts,
        )


def _serving_code(scratch: Path) -> Path:
    """A copy of the parts of this package that answer from a bundle, none of which needs torch."""
    package = scratch / PACKAGE.name
    package.mkdir()
    for part in CODE:
        if (PACKAGE / part).is_dir():
            shutil.copytree(PACKAGE / part, package / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PACKAGE / f"{part}.py", package)
    return package


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow reports each of its steps, and that an item id can be of two types."""
    mlflow_log = logging.getLogger("mlflow")
    level = mlflow_log.level
    mlflow_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mlflow_log.setLevel(level)
