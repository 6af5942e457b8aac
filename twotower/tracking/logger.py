"""The MLflow run of a training run: the same one before and after a kill, and whole in spite of outages."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# How long one call waits for a server; afterwards the training goes on.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from pytorch_lightning.loggers import MLFlowLogger

from twotower.core.files import make_once
from twotower.tracking.lookup import TAG, find_run

log = logging.getLogger(__name__)
SQLITE = "sqlite:///"
PARENT = "mlflow.parentRunId"
SYSTEM = "system/"  # metrics of MLflow's own
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
        parent: the run directory of the run that this one is a part of.
        system_metrics: whether to log the machine's load and memory, every 10 seconds.
        settings: of Lightning's logger.
    """

    def __init__(
        self,
        run_dir: str,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
        system_metrics: bool = False,
        **settings: Any,
    ) -> None:
        _make_database(str(settings["tracking_uri"]))
        run_dir = str(Path(run_dir).resolve())
        super().__init__(tags={TAG: run_dir, **(tags or {})}, **settings)
        self._run_dir = run_dir
        self._unsent = Path(run_dir) / UNSENT_FILE
        self._sent: dict[str, int] = {}  # the newest step of each metric that MLflow knows
        self._parent = str(Path(parent).resolve()) if parent else None
        self._watches = system_metrics
        self._monitor: Any = None
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
        known = self._known(self._run_dir)
        if known:
            self._run_id = known.info.run_id
            client.update_run(self._run_id, "RUNNING")
            for metric in known.data.metrics:
                if not metric.startswith(SYSTEM):
                    history = client.get_metric_history(self._run_id, metric)
                    self._sent[metric] = max(point.step for point in history)
        _ = self.experiment
        parent = self._known(self._parent) if self._parent else None
        if parent:
            client.set_tag(self._run_id, PARENT, parent.info.run_id)
        self._found = True

    def _known(self, run_dir: str) -> Any:
        return find_run(self._mlflow_client, self._experiment_name, run_dir)

    def adopt(self, run_dirs: Iterable[str]) -> None:
        """Make the runs of these directories, where MLflow has them, parts of this one."""

        def tell() -> None:
            for run_dir in run_dirs:
                part = self._known(run_dir)
                if part:
                    self._mlflow_client.set_tag(part.info.run_id, PARENT, self.run_id)

        self._reach(tell)

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
            self._watches = False
            self._watch(False)
            self._reach(lambda: self.experiment.set_terminated(self.run_id, "FAILED"))

    def keep(self, checkpoint: Path | None = None, status: str = "FINISHED") -> bool:
        """Send all that waits, the run directory's own files, and `checkpoint`; the run has `status` then.

        Returns False where MLflow can't be reached.
        """

        def send() -> None:
            for file in sorted(Path(self._run_dir).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    self.experiment.log_artifact(self.run_id, str(file))
            if checkpoint:
                self.experiment.log_artifact(self.run_id, str(checkpoint), checkpoint.parent.name)
            self.experiment.set_terminated(self.run_id, status)

        self._silent_until = 0.0
        self._watches = False
        self._watch(False)
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
            self._watch(self._watches)
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

    def _watch(self, wanted: bool) -> None:
        """Let MLflow's own thread log what the machine does; it ends itself where MLflow can't be reached."""
        thread = self._monitor._process if self._monitor else None
        running = thread is not None and thread.is_alive()
        if running and not wanted:
            self._monitor.finish()
        if wanted and not running:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # outages are told once, here
            self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self._tracking_uri)
            self._monitor.start()

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

    def make(path: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"{SQLITE}{path}").search_experiments()

    if uri.startswith(SQLITE):
        make_once(Path(uri.removeprefix(SQLITE)), make)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _leaves(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    """`model/dim` and so on."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    else:
        yield name, node
