"""Find runs and bundles by whatever names them, and fetch what MLflow has, which is imported only then."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from twotower.core.errors import UserError, nearest
from twotower.serving.bundle_format import MANIFEST_FILE

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else a server that is down is asked for minutes
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each folder of a bundle
MODELS = "models:/"  # begins the address of a registered model
ADDRESS = re.compile(rf"{MODELS}([^/@]+)(?:@([^/@]+)|/(\d+))")
MLFLOW_NAME = re.compile(rf"[0-9a-f]{{32}}|{ADDRESS.pattern}")
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"  # MLflow's code of an error
SHOWN = 5  # versions that a message names
BUNDLE = "bundle"  # a run's tag, and the folder among artifacts of run and model
RUN_DIR_TAG = "run_dir"  # tag of an MLflow run: the absolute path of its run directory
SQLITE = "sqlite:///"
DEFAULT_TRACKING_URI = f"{SQLITE}mlflow.db"


def client_of(tracking_uri: str) -> Any:
    """MLflow's client, or None where its SQLite file is missing: MLflow would create an empty one."""
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).exists():
        return None
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


@contextmanager
def answering(tracking_uri: str) -> Iterator[None]:
    """Raise UserError in the place of what MLflow raises where it refuses or can't be reached."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at {tracking_uri} answers: {error}") from None


def find_run(client: Any, experiment_name: str, run_dir: str) -> Any:
    """MLflow's run of a run directory, or None."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    quote = '"' if "'" in run_dir else "'"  # MLflow's filters have no escape character
    runs = client.search_runs([experiment.experiment_id], f"tags.{RUN_DIR_TAG} = {quote}{run_dir}{quote}")
    return runs[0] if runs else None


def locate(
    name: str, tracking_uri: str, scratch: Path, wanted: Literal["run", "bundle"] = "run", file: str = ""
) -> Path:
    """Return the folder of a run or a bundle, downloaded into `scratch` where MLflow has it.

    Args:
        name: a folder; the id of an MLflow run; or models:/NAME@ALIAS or models:/NAME/VERSION of the model registry.
        tracking_uri: MLflow's.
        scratch: a folder for what is downloaded.
        wanted: of an MLflow run or a registered model its training run, or the bundle that was kept with it.
        file: of a run the only file that is wanted; "" for all.

    Raises:
        UserError: there is no such folder, run or model, or it has no such file.
    """
    if Path(name).is_dir():
        return Path(name)
    if not MLFLOW_NAME.fullmatch(name):
        kinds = f"a folder, an MLflow run id, {MODELS}NAME@ALIAS or {MODELS}NAME/VERSION"
        raise UserError(f"{name} is no folder; expected a {wanted}: {kinds}")
    client = client_of(tracking_uri)
    if client is None:
        raise UserError(
            f"{name} is no folder, and there is no MLflow database {tracking_uri}; name another tracking URI"
        )
    import mlflow

    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        if not name.startswith(MODELS):
            source = {"run_id": name, "artifact_path": BUNDLE if wanted == "bundle" else file}
        else:
            version = _version(client, name)
            source = {"run_id": version.run_id, "artifact_path": file}
            if wanted == "bundle":
                source = {"artifact_uri": f"{version.source}/artifacts"}
        found = mlflow.artifacts.download_artifacts(**source, dst_path=str(folder), tracking_uri=tracking_uri)
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(f"{name} is no folder, and MLflow at {tracking_uri} answers: {error}") from None
    if wanted == "run":
        return folder
    manifests = sorted(Path(found).glob(f"**/{MANIFEST_FILE}"), key=lambda path: len(path.parts))
    if not manifests:
        raise UserError(f"{name} keeps no bundle in MLflow; export its run with register=NAME")
    return manifests[0].parent


def aliases_of(client: Any, model: str) -> dict[str, str]:
    """Return the version of each alias of a registered model; raises UserError where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(model).aliases
    except MlflowException as error:
        if error.error_code != NOT_THERE:
            raise
        names = [each.name for each in client.search_registered_models()]
        raise UserError(
            f"no model is registered as {model}{nearest(model, names)}; the registry has: {', '.join(names) or 'none'}"
        ) from None
    return {alias: str(version) for alias, version in aliases.items()}


def version_of(client: Any, model: str, alias: str | None, number: str | None) -> Any:
    """MLflow's record of a version, by alias or number; raises UserError where there is no such model or version."""
    from mlflow.exceptions import MlflowException

    aliases = aliases_of(client, model)
    if alias is not None and alias not in aliases:
        raise UserError(f"no version of {model} has the alias {alias}{alias_hint(alias, aliases)}")
    try:
        return client.get_model_version(model, aliases[alias] if alias is not None else number)
    except MlflowException as error:
        if error.error_code != NOT_THERE:
            raise
        numbers = sorted(
            (int(each.version) for each in client.search_model_versions(f"name = '{model}'")), reverse=True
        )
        told = ", ".join(map(str, numbers[:SHOWN])) or "none"
        raise UserError(f"{model} has no version {number}; the newest that it has: {told}") from None


def alias_hint(alias: str, aliases: Iterable[str]) -> str:
    """What to say after an alias that there is not: the nearest of a model's, and which it has."""
    known = sorted(aliases)
    return f"{nearest(alias, known)}; it has: {', '.join(known) or 'none'}"


def _version(client: Any, name: str) -> Any:
    match = ADDRESS.fullmatch(name)
    assert match is not None  # as MLFLOW_NAME says
    return version_of(client, *match.groups())
