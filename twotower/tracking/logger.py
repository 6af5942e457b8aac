"""MLflow logger of a training run: one MLflow run before and after a kill, and complete in spite of outages."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

# How long one call waits for a server; training continues afterwards.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from pytorch_lightning.loggers import MLFlowLogger

from twotower.core.files import create_file_once
from twotower.core.nested import leaves
from twotower.tracking.lookup import RUN_DIR_TAG, SQLITE, find_run
from twotower.tracking.names import (
    METRICS_PER_REQUEST,
    PARAMS_PER_REQUEST,
    add_allowed_names,
    metric_name,
    override_value,
)

log = logging.getLogger(__name__)
PARENT_TAG = "mlflow.parentRunId"
SYSTEM = "system/"  # prefix of MLflow's system metrics
UNSENT_FILE = "unsent.jsonl"  # in the run directory: pending entries, one JSON object a line
PAUSE, LONGEST_PAUSE = 30.0, 960.0  # seconds after a failure until the next attempt: doubled each time
MAX_PARAM_LENGTH = 500  # characters
# Error codes of answers that stay the same however often one asks; all others may be those of an outage.
REJECTIONS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")


class Tracker(MLFlowLogger):
    """Lightning's MLflow logger, made safe against kills and outages.

    The tag `run_dir` identifies the MLflow run. A resumed training repeats the steps since its last checkpoint; metrics
    that MLflow has for a step are not sent again. While MLflow can't be reached, training continues, and entries wait
    in UNSENT_FILE. What MLflow rejects is reported and not sent again.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> tracker = Tracker(folder, tracking_uri="http://127.0.0.1:9", experiment_name="shop")  # no server there
    >>> tracker.log_metrics({"train/loss": 0.5}, step=20)
    >>> json.loads((Path(folder) / UNSENT_FILE).read_text())["metrics"]
    {'train/loss': 0.5}

    Args:
        run_dir: the run directory.
        tags: further tags of the MLflow run.
        parent: run directory of the parent run, if there is one.
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
        _create_database(str(settings["tracking_uri"]))
        run_dir = str(Path(run_dir).resolve())
        tag_names: dict[str, str] = {}
        add_allowed_names(tag_names, [RUN_DIR_TAG, *(tags or {})])
        named_tags = {tag_names[name]: value for name, value in (tags or {}).items()}
        super().__init__(tags={RUN_DIR_TAG: run_dir, **named_tags}, **settings)
        self._run_dir = run_dir
        self._unsent = Path(run_dir) / UNSENT_FILE
        self._sent: dict[str, int] = {}  # the last step of each metric that MLflow has, by MLflow's name
        self._metric_names: dict[str, str] = {}  # MLflow's, by ours
        self._param_names: dict[str, str] = {}
        self._rejections: set[str] = set()  # reasons that have been reported
        self._parent = str(Path(parent).resolve()) if parent else None
        self._system_metrics = system_metrics
        self._monitor: Any = None
        self._opened = False
        self._paused_until = 0.0
        self._pause = PAUSE

    @property
    def name(self) -> str:
        """Name of the MLflow experiment."""
        return self._experiment_name

    @property
    def experiment(self) -> Any:
        """MLflow's client; asks MLflow for nothing.

        Lightning's creates a run where none is known, and its trainer calls it before anything is logged: a run that is
        resumed would get a second one.
        """
        return self._mlflow_client

    @property
    def version(self) -> None:
        """None, so that Lightning creates no folders of that name."""
        return None

    def open_run(self) -> None:
        """Find this run in MLflow, or create it; raises MlflowException or OSError where MLflow can't be reached."""
        if self._opened:
            return
        client = self._mlflow_client
        known = find_run(client, self._experiment_name, self._run_dir)
        if known:
            self._run_id = known.info.run_id
            client.update_run(self._run_id, "RUNNING")
            for metric in known.data.metrics:
                if not metric.startswith(SYSTEM):
                    history = client.get_metric_history(self._run_id, metric)
                    self._sent[metric] = max(point.step for point in history)
        _ = super().experiment  # creates it
        parent = find_run(client, self._experiment_name, self._parent) if self._parent else None
        if parent:
            client.set_tag(self._run_id, PARENT_TAG, parent.info.run_id)
        self._opened = True

    def flush(self) -> None:
        """Send pending entries; raises MlflowException or OSError where MLflow can't be reached, and keeps them."""
        self.open_run()
        if not self._unsent.exists():
            return
        for line in self._unsent.read_text(encoding="utf-8").split("\n"):  # an entry that is sent twice counts once
            with suppress(json.JSONDecodeError):  # half a line left by a kill; its step is repeated
                self._send(json.loads(line))
        self._unsent.unlink()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics, or keep them for later."""
        self._send_or_keep({"metrics": dict(metrics), "step": step or 0, "time": int(1000 * time.time())})

    def log_hyperparams(self, params: Any) -> None:
        """Send parameters as overrides have them, `model.dim` and so on, or keep them for later."""
        self._send_or_keep(
            {"params": {name: override_value(value)[:MAX_PARAM_LENGTH] for name, value in leaves(params)}}
        )

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Send what the run is trained and tested on as MLflow's dataset, or keep it for later."""
        self._send_or_keep({"dataset": {"name": name, "digest": digest, "source": source}})

    def finalize(self, status: str = "success") -> None:
        """Set status FAILED where training failed; otherwise the run goes on until `keep`."""
        if status == "failed":
            self._stop_monitor()
            self._try(lambda: self.experiment.set_terminated(self.run_id, "FAILED"))

    def keep(self, checkpoint: Path | None = None, status: str = "FINISHED") -> bool:
        """Send pending entries, the files of the run directory, and `checkpoint`; then end the run with `status`.

        Returns False where MLflow can't be reached.
        """

        def send() -> None:
            client, run_id = self.experiment, self.run_id
            for file in sorted(Path(self._run_dir).iterdir()):
                if file.is_file() and not file.name.startswith("."):
                    self._unless_rejected(file.name, partial(client.log_artifact, run_id, str(file)))
            if checkpoint:
                upload = partial(client.log_artifact, run_id, str(checkpoint), checkpoint.parent.name)
                self._unless_rejected(checkpoint.name, upload)
            self._unless_rejected(f"the status {status}", partial(client.set_terminated, run_id, status))

        self._paused_until = 0.0
        self._stop_monitor()
        return self._try(send)

    def _send_or_keep(self, entry: dict[str, Any]) -> None:
        if time.monotonic() < self._paused_until or not self._try(lambda: self._send(entry)):
            with self._unsent.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(entry))  # a new line first, as the line before may be half

    def _try(self, send: Callable[[], None]) -> bool:
        """Send pending entries, then call `send`; returns False, and pauses, where MLflow can't be reached."""
        from mlflow.exceptions import MlflowException

        try:
            self.flush()
            self._start_monitor()
            send()
        except (MlflowException, OSError) as error:
            if not self._paused_until:
                failure = "rejected the run" if _is_rejection(error) else "can't be reached"
                log.warning("MLflow %s (%s); metrics are kept in %s", failure, _reason(error), self._unsent)
            self._paused_until = time.monotonic() + self._pause  # a server that never answers costs ever less
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return False
        if self._paused_until:
            log.info("MLflow reachable again; pending metrics sent")
        self._paused_until, self._pause = 0.0, PAUSE
        return True

    def _start_monitor(self) -> None:
        """Start MLflow's thread that logs system metrics; it ends itself where MLflow can't be reached."""
        thread = self._monitor._process if self._monitor else None
        if self._system_metrics and not (thread and thread.is_alive()):
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # outages are logged once, here
            self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self._tracking_uri)
            self._monitor.start()

    def _stop_monitor(self) -> None:
        self._system_metrics = False
        if self._monitor and self._monitor._process and self._monitor._process.is_alive():
            self._monitor.finish()

    def _send(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        metrics, step, params = entry.get("metrics", {}), entry.get("step", 0), entry.get("params", {})
        metrics = {metric_name(name): value for name, value in metrics.items()}
        add_allowed_names(self._metric_names, metrics)
        add_allowed_names(self._param_names, params)
        named = {self._metric_names[name]: value for name, value in metrics.items()}
        new = [
            Metric(name, value, entry["time"], step) for name, value in named.items() if step > self._sent.get(name, -1)
        ]
        for part in _parts(new, METRICS_PER_REQUEST):
            if self._log_batch(f"{len(part)} metrics of step {step}", metrics=part):
                self._sent |= {metric.key: step for metric in part}
        for part in _parts(
            [Param(self._param_names[name], value) for name, value in params.items()], PARAMS_PER_REQUEST
        ):
            self._log_batch(f"{len(part)} parameters", params=part)
        if dataset := entry.get("dataset"):
            self._send_dataset(**dataset)

    def _send_dataset(self, name: str, digest: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        dataset = Dataset(name, digest, "local", json.dumps({"uri": source}))
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training and test")])]
        self._unless_rejected("the dataset", partial(self.experiment.log_inputs, self.run_id, inputs))

    def _log_batch(self, what: str, **batch: Any) -> bool:
        return self._unless_rejected(what, partial(self.experiment.log_batch, self.run_id, **batch))

    def _unless_rejected(self, what: str, send: Callable[[], Any]) -> bool:
        """Call `send`; where MLflow rejects `what` it sends, report each reason once and return False."""
        from mlflow.exceptions import MlflowException

        try:
            send()
        except MlflowException as error:
            if not _is_rejection(error):
                raise
            reason = _reason(error)
            if reason not in self._rejections:
                log.warning("MLflow rejected %s (%s); the files in %s have them", what, reason, self._run_dir)
            self._rejections.add(reason)
            return False
        return True


def _is_rejection(error: Exception) -> bool:
    """Return whether MLflow was reached and will give the same answer again."""
    return getattr(error, "error_code", None) in REJECTIONS


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _parts(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def _create_database(uri: str) -> None:
    """Create MLflow's SQLite file whole or not at all, as MLflow can't open one that a kill left incomplete."""

    def create(path: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"{SQLITE}{path}").search_experiments()

    if uri.startswith(SQLITE):
        create_file_once(Path(uri.removeprefix(SQLITE)), create)
