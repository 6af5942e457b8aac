"""The MLflow run of a run that was killed and went on, and of one whose server was away."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from twotower.core.errors import UserError
from twotower.tracking import logger as tracker
from twotower.tracking.logger import Tracker
from twotower.tracking.lookup import locate


def history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


@pytest.mark.slow
def test_a_run_that_goes_on_says_nothing_twice(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mine, others = tmp_path / "a's run", tmp_path / "a"
    mine.mkdir(), others.mkdir()
    settings: dict[str, Any] = {"tracking_uri": uri, "experiment_name": "test", "run_name": "one"}
    first = Tracker(str(mine), {"dataset": "shop"}, **settings)
    first.log_hyperparams({"model": {"dim": 8, "none": {}}, "seed": 1, "refit": True, "sweep": None, "ks": [1, 20]})
    first.log_dataset("shop", "0123abcd", "prepared/shop")
    for step in (0, 20, 40):
        first.log_metrics({"train/loss": 1.0 + step, "lr": 0.5}, step)
    first.finalize("failed")
    client = mlflow.MlflowClient(uri)
    assert client.get_run(first.run_id).info.status == "FAILED"
    other = Tracker(str(others), **settings)
    other.log_metrics({"train/loss": 9.0}, 0)
    assert other.run_id != first.run_id
    again = Tracker(str(mine), **settings)
    assert again.experiment is not None  # Lightning's trainer asks for it before anything is logged
    for step in (20, 40, 60):
        again.log_metrics({"train/loss": 1.0 + step, "new": 2.0}, step)
    again.log_metrics({"test/recall": 0.25})
    assert again.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    for name in ("metrics.json", ".lock"):
        (mine / name).write_text("{}")
    (mine / "checkpoints").mkdir()
    (mine / "checkpoints" / "best.safetensors").write_text("weights")
    (mine / "unsent.jsonl").write_text('\n{"metrics": {"half": 1.\n{"metrics": {"late": 3.0}, "step": 7, "time": 1}')
    assert again.keep(mine / "checkpoints" / "best.safetensors")
    assert history(client, first.run_id, "late") == [(7, 3.0)]
    assert [item.path for item in client.list_artifacts(first.run_id)] == ["checkpoints", "metrics.json"]
    assert history(client, first.run_id, "train/loss") == [(0, 1.0), (20, 21.0), (40, 41.0), (60, 61.0)]
    assert history(client, first.run_id, "new") == [(20, 2.0), (40, 2.0), (60, 2.0)]
    found = client.get_run(first.run_id)
    assert found.data.metrics["test/recall"] == 0.25 and found.info.status == "FINISHED"
    params = {"model.dim": "8", "model.none": "{}", "seed": "1", "refit": "true", "sweep": "null", "ks": "[1,20]"}
    assert found.data.params == params, "as overrides have them"
    (dataset,) = [given.dataset for given in found.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("shop", "0123abcd") and "prepared/shop" in dataset.source
    assert found.data.tags["dataset"] == "shop" and found.data.tags["run_dir"] == str(mine)
    assert len(client.search_runs([again.experiment_id])) == 2


@pytest.mark.slow
def test_names_that_mlflow_does_not_allow_and_rejections_lose_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = tmp_path / "run"
    run.mkdir()
    told = Tracker(str(run), {"what?": "a", "what_": "b"}, tracking_uri=uri, experiment_name="test", run_name="one")
    told.log_hyperparams({"weights": {"entfernt?": 2, "entfernt!": 3}})
    told.log_metrics({"test/entfernt?": 0.25, "test/entfernt!": 0.5, "test/view": 0.75})
    assert not [record for record in caplog.records if record.name == tracker.log.name]
    told.log_hyperparams({"weights": {"entfernt?": 4}})  # MLflow keeps a parameter's first value
    told.log_metrics({"bad": "text"})  # MLflow rejects it
    told.log_metrics({"later": 1.0}, 1)
    assert told.keep()
    messages = [record.getMessage() for record in caplog.records if record.name == tracker.log.name]
    assert len(messages) == 2 and all("rejected" in text and "can't be reached" not in text for text in messages)
    assert "Changing param values is not allowed" in messages[0] and "double" in messages[1]
    assert not (run / "unsent.jsonl").exists()
    found = mlflow.MlflowClient(uri).get_run(str(told.run_id))
    expected = {"test/entfernt_": 0.25, "test/entfernt__2": 0.5, "test/view": 0.75, "later": 1.0}
    assert found.data.metrics == expected and found.info.status == "FINISHED"
    assert found.data.params == {"weights.entfernt_": "2", "weights.entfernt__2": "3"}
    assert found.data.tags["what_"] == "b" and found.data.tags["what__2"] == "a"


@pytest.mark.slow
def test_what_mlflow_rejects_while_it_is_sent_late_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = tmp_path / "run"
    run.mkdir()
    entries = [
        '{"metrics": {"bad": "text"}, "step": 0, "time": 1}',
        '{"metrics": {"gone?": 3.0}, "step": 7, "time": 1}',
    ]
    (run / "unsent.jsonl").write_text("\n".join(entries))
    told = Tracker(str(run), tracking_uri=uri, experiment_name="test", run_name="one")
    assert told.keep() and not (run / "unsent.jsonl").exists()
    client = mlflow.MlflowClient(uri)
    assert history(client, str(told.run_id), "gone_") == [(7, 3.0)]
    client.delete_run(str(told.run_id))
    told.log_metrics({"late": 1.0})
    assert told.keep(), "a run that is deleted in MLflow ends all the same"


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_learns_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # more processes, for other things

    def start() -> "subprocess.Popen[bytes]":
        with (tmp_path / "server.log").open("ab") as output:
            server = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return server
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.2)

    def stop(server: "subprocess.Popen[bytes]") -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    monkeypatch.setattr(tracker, "PAUSE", 0.5)
    run = tmp_path / "run"
    run.mkdir()
    told = Tracker(str(run), tracking_uri=uri, experiment_name="test", run_name="one")
    told.log_hyperparams({"seed": 1})  # before there is a server
    told.log_metrics({"loss": 0.0}, 0)
    assert len((run / "unsent.jsonl").read_text().split()) > 2
    (run / "best").touch()
    server = start()
    try:
        time.sleep(1)
        told.log_metrics({"loss": 1.0}, 1)
        assert not (run / "unsent.jsonl").exists()
    finally:
        stop(server)
    for step in (2, 3):
        told.log_metrics({"loss": float(step)}, step)
    assert not told.keep(run / "best"), "nobody is there"
    server = start()
    try:
        time.sleep(1)
        assert told.keep(run / "best")
        client = mlflow.MlflowClient(uri)
        assert history(client, str(told.run_id), "loss") == [(step, float(step)) for step in range(4)]
        assert client.get_run(str(told.run_id)).data.params == {"seed": "1"}
        assert client.get_run(str(told.run_id)).info.status == "FINISHED"
        assert len(client.search_runs([told.experiment_id])) == 1
    finally:
        stop(server)
    assert not (run / "unsent.jsonl").exists()


def test_a_server_that_never_answers_is_asked_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"tracking_uri": "http://127.0.0.1:9", "experiment_name": "shop"}
    away = Tracker(str(tmp_path), **settings)
    clock, asked = [1000.0], []

    def refused() -> None:
        asked.append(clock[0])
        raise OSError("no answer")

    monkeypatch.setattr(tracker.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(away, "open_run", refused)
    for second in range(0, 4000, 10):
        clock[0] = 1000.0 + second
        away.log_metrics({"train/loss": 1.0}, second)
    assert [b - a for a, b in itertools.pairwise(asked)] == [30, 60, 120, 240, 480, 960, 960, 960]
    assert [record.getMessage().count("can't be reached") for record in caplog.records if "MLflow" in record.msg] == [1]
    assert len((tmp_path / "unsent.jsonl").read_text().split()) > 0
    monkeypatch.setattr(away, "open_run", lambda: None)
    sent: list[Any] = []
    monkeypatch.setattr(away, "_send", sent.append)
    clock[0] += 960
    away.log_metrics({"train/loss": 2.0}, 4000)
    assert [entry["step"] for entry in sent] == [*range(0, 4000, 10), 4000], "each value, in order"


def test_a_server_that_is_down_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"MLflow at {uri} answers"):
        locate("0" * 32, uri, tmp_path)
    assert time.monotonic() - begin < 60  # by itself MLflow asks for more than four minutes
