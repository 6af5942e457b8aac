"""Find MLflow runs and fetch their files; MLflow is imported only when one is asked for."""

import re
from pathlib import Path
from typing import Any

from twotower.core.errors import UserError

RUN_DIR_TAG = "run_dir"  # tag of an MLflow run: the absolute path of its run directory
SQLITE = "sqlite:///"
DEFAULT_TRACKING_URI = f"{SQLITE}mlflow.db"


def client_of(tracking_uri: str) -> Any:
    """MLflow's client, or None where its SQLite file is missing: MLflow would create an empty one."""
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).exists():
        return None
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def find_run(client: Any, experiment_name: str, run_dir: str) -> Any:
    """MLflow's run of a run directory, or None."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    quote = '"' if "'" in run_dir else "'"  # MLflow's filters have no escape character
    runs = client.search_runs([experiment.experiment_id], f"tags.{RUN_DIR_TAG} = {quote}{run_dir}{quote}")
    return runs[0] if runs else None


def locate(run: str, tracking_uri: str, scratch: Path, file: str = "") -> Path:
    """Return the folder with a run's files, which are downloaded where `run` is an MLflow run id.

    Args:
        run: a folder, or the id of an MLflow run.
        tracking_uri: MLflow's.
        scratch: a folder for what is downloaded.
        file: the only file that is wanted; "" for all.

    Returns:
        The folder, which may not exist where `run` is no id.

    Raises:
        UserError: MLflow has no such run, or the run has no such file.
    """
    if Path(run).exists() or not re.fullmatch("[0-9a-f]{32}", run):
        return Path(run)
    if client_of(tracking_uri) is None:
        raise UserError(
            f"{run} is no folder, and there is no MLflow database {tracking_uri}; name another tracking URI"
        )
    import mlflow

    folder = scratch / run
    folder.mkdir()
    try:
        mlflow.artifacts.download_artifacts(
            run_id=run, artifact_path=file, dst_path=str(folder), tracking_uri=tracking_uri
        )
    except (mlflow.MlflowException, OSError) as error:
        raise UserError(f"{run} is no folder, and MLflow at {tracking_uri} answers: {error}") from None
    return folder
