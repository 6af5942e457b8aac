"""What MLflow is told of a bundle: which run it comes from and, on request, a version in the model registry."""

import logging
from pathlib import Path

from twotower.errors import UserError
from twotower.run import Run
from twotower.tracked import client_of, find_run

log = logging.getLogger(__name__)
FOLDER = "bundle"  # among the run's artifacts
TAG = "bundle"


def keep_bundle(run: Run, bundle: Path, name: str | None, alias: str) -> str | None:
    """Tag the run in MLflow with its bundle; with a name, put the bundle there and register it.

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
        client.set_tag(known.info.run_id, TAG, str(bundle.resolve()))
        if name is None:
            return None
        client.log_artifacts(known.info.run_id, str(bundle), FOLDER)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"runs:/{known.info.run_id}/{FOLDER}"
        version = client.create_model_version(name, source, known.info.run_id).version
        client.set_registered_model_alias(name, alias, version)
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow at {logger.tracking_uri} says: {error}") from None
    return f"models:/{name}@{alias}"
