"""Runs that are not a folder here, but in MLflow, which is imported only when one of them is asked for."""

import re
from pathlib import Path
from typing import Any

from twotower.core.errors import UserError

TAG = "run_dir"  # of an MLflow run: the absolute path of its folder


def client_of(tracking_uri: str) -> Any:
    """MLflow's client, or None where its database does not exist: MLflow would make an empty one."""
    database = tracking_uri.removeprefix("sqlite:///")
    if database != tracking_uri and not Path(database).exists():
        return None
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def find_run(client: Any, experiment_name: str, run_dir: str) -> Any:
    """MLflow's run of a run directory, or None."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return None
    quote = '"' if "'" in run_dir else "'"  # MLflow's filters escape nothing
    runs = client.search_runs([experiment.experiment_id], f"tags.{TAG} = {quote}{run_dir}{quote}")
    return runs[0] if runs else None


def locate(run: str, tracking_uri: str, scratch: Path, file: str = "") -> Path:
    """Where a run's files are.

    Args:
        run: a folder, or the id of an MLflow run.
        tracking_uri: MLflow's.
        scratch: a folder for what has to be fetched.
        file: the only one that is wanted; all where it is empty.

    Returns:
        The folder, which may not exist where `run` is no id; or a new one in `scratch`.

    Raises:
        UserError: MLflow does not know the run, or it has no such file.
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
        raise UserError(f"{run} is no folder, and MLflow at {tracking_uri} says: {error}") from None
    return folder
