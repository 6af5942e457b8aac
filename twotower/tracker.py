"""The MLflow run of a training run: the same one before and after a kill, and whole in spite of outages."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# How long one call waits for a server; afterwards the training goes on.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from pytorch_lightning.loggers import MLFlowLogger

log = logging.getLogger(__name__)
SQLITE = "sqlite:///"
TAG = "run_dir"
UNSENT_FILE = "unsent.jsonl"  # in the run directory: what MLflow has not been told yet, a line each
PAUSE = 30.0  # seconds after a failure until the next attempt
LONGEST = 500  # characters of a parameter
AT_ONCE = 100  # parameters of a request


class Tracker(MLFlowLogger):
    """Lightning's MLflow logger, which says nothing twice and forgets nothing.

    The MLflow run is known by its tag `run_dir`. A training that goes on from its last checkpoint takes some steps
    again; what MLflow knows of them is not sent again. While MLflow can't be reached, training goes on, and what there
    is to tell waits in UNSENT_FILE.

    Args:
        run_dir: the run directory.
        tags: more of them.
        settings: of Lightning's logger.
    """

    def __init__(self, run_dir: str, tags: Mapping[str, str] | None = None, **settings: Any) -> None:
        _make_database(str(settings["tracking_uri"]))
        super().__init__(tags={TAG: run_dir, **(tags or {})}, **settings)
        self._run_dir = run_dir
        self._unsent = Path(run_dir) / UNSENT_FILE
        self._sent: dict[str, int] = {}  # the newest step of each metric that MLflow knows
        self._found = False
        self._silent_until = 0.0

    @property
    def name(self) -> str:
        """The experiment's."""
        return self._experiment_name

    @property
    def version(self) -> None:
        """None: what Lightning would name folders by."""
        return None

    def find(self) -> None:
        """Find this run in MLflow, or make it; raises MlflowException or OSError where that can't be reached."""
        if self._found:
            return
        client = self._mlflow_client
        experiment = client.get_experiment_by_name(self._experiment_name)
        quote = '"' if "'" in self._run_dir else "'"  # MLflow's filters escape nothing
        mine = f"tags.{TAG} = {quote}{self._run_dir}{quote}"
        known = client.search_runs([experiment.experiment_id], mine) if experiment else []
        if known:
            self._run_id = known[0].info.run_id
            client.update_run(self._run_id, "RUNNING")
            for metric in known[0].data.metrics:
                history = client.get_metric_history(self._run_id, metric)
                self._sent[metric] = max(point.step for point in history)
        _ = self.experiment
        self._found = True

    def flush(self) -> None:
        """Send what waits; raises MlflowException or OSError where MLflow can't be reached, and what waits stays."""
        self.find()
        if not self._unsent.exists():
            return
        for line in self._unsent.read_text(encoding="utf-8").split("\n"):  # sent twice, a value counts once
            with suppress(json.JSONDecodeError):  # half a line that a kill left; its step is taken again
                self._send(json.loads(line))
        self._unsent.unlink()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send, or keep for later."""
        self._tell({"metrics": dict(metrics), "step": step or 0, "time": int(1000 * time.time())})

    def log_hyperparams(self, params: Any) -> None:
        """Send, or keep for later."""
        self._tell({"params": {name: str(value)[:LONGEST] for name, value in _leaves(params, "")}})

    def finalize(self, status: str = "success") -> None:
        """Say so where training failed; else the test comes yet, and `keep` ends the run."""
        if status == "failed":
            self._reach(lambda: self.experiment.set_terminated(self.run_id, "FAILED"))

    def keep(self, checkpoint: Path) -> bool:
        """Send all that waits, the run directory's own files, and `checkpoint`; the run is finished then.

        Returns False where MLflow can't be reached.
        """

        def send() -> None:
            for file in sorted(Path(self._run_dir).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    self.experiment.log_artifact(self.run_id, str(file))
            self.experiment.log_artifact(self.run_id, str(checkpoint), checkpoint.parent.name)
            self.experiment.set_terminated(self.run_id)

        self._silent_until = 0.0
        return self._reach(send)

    def _tell(self, entry: dict[str, Any]) -> None:
        if time.monotonic() < self._silent_until or not self._reach(lambda: self._send(entry)):
            with self._unsent.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(entry))  # a new line first, as the one before may be half

    def _reach(self, what: Callable[[], None]) -> bool:
        """Send what waits, then do `what`; False, and a while of silence, where MLflow can't be reached."""
        from mlflow.exceptions import MlflowException

        try:
            self.flush()
            what()
        except (MlflowException, OSError) as error:
            if not self._silent_until:
                log.warning("MLflow can't be reached (%s); its figures wait in %s", _first_line(error), self._unsent)
            self._silent_until = time.monotonic() + PAUSE
            return False
        if self._silent_until:
            log.info("MLflow is back, and knows all")
        self._silent_until = 0.0
        return True

    def _send(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        metrics, step = entry.get("metrics", {}), entry.get("step", 0)
        new = {name: value for name, value in metrics.items() if step > self._sent.get(name, -1)}
        points = [Metric(name, value, entry["time"], step) for name, value in new.items()]
        params = [Param(name, value) for name, value in entry.get("params", {}).items()]
        for begin in range(0, max(len(params), 1), AT_ONCE):
            if points or params:
                self.experiment.log_batch(self.run_id, points if begin == 0 else (), params[begin : begin + AT_ONCE])
        self._sent |= dict.fromkeys(new, step)


def _make_database(uri: str) -> None:
    """Make MLflow's SQLite file whole or not at all: it can't open one that a kill left half-made."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        MlflowClient(f"{SQLITE}{made}").search_experiments()
        with suppress(FileExistsError):  # another process was faster
            os.link(made, path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """`model/dim` and so on."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    else:
        yield name, node
