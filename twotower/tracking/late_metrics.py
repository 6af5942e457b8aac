"""Add metrics to the MLflow run of a training that is finished."""

import time
from collections.abc import Mapping
from pathlib import Path

from twotower.core.errors import UserError
from twotower.runs.run import load_config
from twotower.tracking.lookup import answering, client_of, find_run
from twotower.tracking.names import add_allowed_names


def log_late_metrics(run: Path, values: Mapping[str, float]) -> None:
    """Log values of now to the MLflow run of a run directory; raises UserError where MLflow has none."""
    from mlflow.entities import Metric

    config = load_config(run)
    client = client_of(config.logger.tracking_uri) if config.logger else None
    if client is None:
        raise UserError(f"{run} was trained without MLflow, or its database is gone")
    names: dict[str, str] = {}
    add_allowed_names(names, values)
    now = time.time_ns() // 1_000_000
    with answering(config.logger.tracking_uri):
        known = find_run(client, config.logger.experiment_name, str(Path(config.run_dir).resolve()))
        if known is None:
            raise UserError(f"MLflow at {config.logger.tracking_uri} has no run of {config.run_dir}")
        client.log_batch(known.info.run_id, [Metric(names[name], value, now, 0) for name, value in values.items()])
