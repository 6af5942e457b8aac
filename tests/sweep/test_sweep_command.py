"""Sweeps as their user types them: killed, gone on with, side by side. Slow: real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from forked_commands import run, start
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
SMALL = ["data.items=200", "data.users=200", "data.sessions=3000", "data.days=20", "model.dim=16"]
SMALL += ["trainer.max_epochs=2", "evaluation.baselines=false", "evaluation.replicates=50", "refit=false"]
SPACE = ["sweep.space.model.dim='choice(16,8,15)'", "sweep.space.model.user_tower=null"]  # 15 can't be cut in two heads
SPACE += ["sweep.space.positions_per_batch=null"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def call(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    if any("joblib" in word for word in arguments):  # its workers wait for ever in a forked process
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return run(["train", *arguments], folder, ENVIRONMENT)


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/sweeps/{name}/study.db")


def runs_in(folder: Path) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment: Any = client.get_experiment_by_name("twotower")
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
def test_a_sweep_that_is_killed_runs_only_the_rest_and_its_best_can_be_had_again(tmp_path: Path) -> None:
    typed = ["-m", "sweep=grid", "sweep.name=ours", *SMALL, *SPACE, "sweep.space.optimizer=null"]
    process = start(["train", *typed], tmp_path, tmp_path / "log", ENVIRONMENT)
    deadline = time.monotonic() + 200
    while not (tmp_path / "sweeps/ours/1/fitted.json").exists():
        assert process.exitcode is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    process.kill()
    process.join()
    before = {trial.number: trial.values for trial in study_of(tmp_path, "ours").trials if trial.state.is_finished()}
    assert len(study_of(tmp_path, "ours").trials) == 3 and 0 < len(before) < 3

    done = call(tmp_path, *typed, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"3 trials, {3 - len(before)} of them to do" in done.stdout
    assert "3 trials: 2 complete, 1 failed" in done.stdout
    failed = [line for line in done.stdout.splitlines() if "failed: UserError" in line and "model.dim=15" in line]
    assert len(failed) == 2, "the trial's line and the summary's"
    trials = study_of(tmp_path, "ours").trials
    assert {trial.number: trial.values for trial in trials if trial.number in before} == before
    assert [trial.params for trial in trials] == [{"model.dim": dim} for dim in ("16", "8", "15")]
    runs = runs_in(tmp_path)
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    parts = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    # The third failed before it trained: its reason is in the study, and MLflow has no run of it.
    assert len(runs) == 3 and sorted(run.info.run_name for run in parts) == [f"ours {k}" for k in range(2)]
    assert sorted(run.info.status for run in parts) == ["FINISHED"] * 2
    assert parent.info.status == "FINISHED"
    assert {file.parent.name for file in tmp_path.glob("sweeps/**/.lock")} <= {"2"}

    once_more = call(tmp_path, *typed)
    assert once_more.returncode == 0 and "3 trials: 2 complete, 1 failed" in once_more.stdout
    assert "to do" not in once_more.stdout and len(runs_in(tmp_path)) == 3
    other = call(tmp_path, *typed, "seed=1")
    assert other.returncode == 2 and "data.seed: was 0, is 1; seed: was 0, is 1" in other.stderr

    best = study_of(tmp_path, "ours").best_trial
    again = call(tmp_path, "--config-dir", str(tmp_path / "sweeps/ours"), "experiment=best", "logger=none")
    assert again.returncode == 0, again.stderr
    again_in = Path(again.stdout.splitlines()[-1].removeprefix("run: "))
    assert json.loads((again_in / "metrics.json").read_text())["val/ndcg_at_20"] == best.value
    assert OmegaConf.load(again_in / "config.yaml").model.dim == int(best.params["model.dim"])
    finished = call(tmp_path, f"resume=sweeps/ours/{best.number}")
    assert finished.returncode == 0, finished.stderr
    metrics = json.loads((tmp_path / f"sweeps/ours/{best.number}/metrics.json").read_text())
    assert metrics["test/recall_at_20"] == json.loads((again_in / "metrics.json").read_text())["test/recall_at_20"]
    assert len(runs_in(tmp_path)) == 3


@pytest.mark.slow
def test_quality_against_size_on_workers_side_by_side(tmp_path: Path) -> None:
    objectives = ["+sweep.objectives={serving/megabytes: minimize}"]
    typed = ["-m", "sweep=random", "sweep.trials=3", *SMALL, "logger=none", *objectives, "trainer.max_epochs=1"]
    done = call(tmp_path, *typed, "sweep.space.model.dim='choice(8,16)'", "hydra/launcher=joblib")
    assert done.returncode == 0, done.stdout + done.stderr
    study = study_of(tmp_path, "marketplace-random")
    sizes = {trial.params["model.dim"]: trial.values[1] for trial in study.trials}
    assert len(study.trials) == 3 and all(len(trial.values) == 2 for trial in study.trials)
    assert sizes["16"] > sizes.get("8", 0)
    assert study.trials[0].params["model.dim"] == "16", "the first is what runs without a sweep"


@pytest.mark.slow
def test_trials_run_as_jobs_of_submitit(tmp_path: Path) -> None:
    typed = ["-m", "sweep=random", "sweep.trials=2", *SMALL, "logger=none", "trainer.max_epochs=1"]
    done = call(tmp_path, *typed, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 2 complete" in done.stdout
    assert [trial.state.name for trial in study_of(tmp_path, "marketplace-random").trials] == ["COMPLETE"] * 2
