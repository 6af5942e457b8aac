"""The MLflow run of a training run, the same one before and after a kill."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

TAG = "run_dir"


class Tracker(MLFlowLogger):
    """Lightning's MLflow logger, which goes on with a run without saying anything twice.

    The MLflow run is known by its tag `run_dir`. A training that goes on from its last checkpoint takes some steps
    again; what MLflow knows of them already is not sent again.

    Args:
        run_dir: the run directory.
        settings: of Lightning's logger.
    """

    def __init__(self, run_dir: str, **settings: Any) -> None:
        super().__init__(tags={TAG: run_dir}, **settings)
        self._sent: dict[str, int] = {}  # the newest step of each metric before the run went on
        client = self._mlflow_client
        experiment = client.get_experiment_by_name(self._experiment_name)
        quote = '"' if "'" in run_dir else "'"  # MLflow's filters escape nothing
        mine = f"tags.{TAG} = {quote}{run_dir}{quote}"
        known = client.search_runs([experiment.experiment_id], mine) if experiment else []
        self.goes_on = bool(known)
        if known:
            self._run_id = known[0].info.run_id
            client.update_run(self._run_id, "RUNNING")
            for name in known[0].data.metrics:
                self._sent[name] = max(point.step for point in client.get_metric_history(self._run_id, name))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send those that are new."""
        new = {name: value for name, value in metrics.items() if (step or 0) > self._sent.get(name, -1)}
        if new:
            super().log_metrics(new, step)
