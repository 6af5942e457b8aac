"""The MLflow run of a run that was killed and went on."""

from pathlib import Path

import pytest

from twotower.tracker import Tracker


@pytest.mark.slow
def test_a_run_that_goes_on_says_nothing_twice(tmp_path: Path) -> None:
    settings = {
        "tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "experiment_name": "test",
        "run_name": "one",
        "run_dir": "/a/b's run",
    }
    first = Tracker(**settings)
    for step in (0, 20, 40):
        first.log_metrics({"train/loss": 1.0 + step, "lr": 0.5}, step)
    first.finalize("failed")
    assert not first.goes_on
    other = Tracker(**settings | {"run_dir": "/a/b"})
    assert not other.goes_on and other.run_id != first.run_id
    again = Tracker(**settings)
    assert again.goes_on
    client = again.experiment
    assert again.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    for step in (20, 40, 60):
        again.log_metrics({"train/loss": 1.0 + step, "new": 2.0}, step)
    again.log_metrics({"test/recall": 0.25})
    again.finalize("success")
    history = client.get_metric_history(first.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (20, 21.0), (40, 41.0), (60, 61.0)]
    assert [point.step for point in client.get_metric_history(first.run_id, "new")] == [20, 40, 60]
    assert client.get_run(first.run_id).data.metrics["test/recall"] == 0.25
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert len(client.search_runs([again.experiment_id])) == 2
