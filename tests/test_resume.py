"""Runs that are killed or told to leave, as their user sees it. Slow: real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = ["data.items=200", "data.users=200", "data.sessions=3000", "data.days=20", "model.dim=16", "logger=none"]
SMALL += ["trainer.max_epochs=12", "callbacks.early_stopping.patience=99", "refit=false", "evaluation.baselines=false"]


@pytest.mark.slow
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGUSR1])
def test_a_machine_that_is_taken_back_costs_nothing(tmp_path: Path, notice: signal.Signals) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "resume=auto"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while "epoch 1" not in (tmp_path / "log").read_text():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    process.send_signal(notice)
    assert process.wait(60) == 130
    said = (tmp_path / "log").read_text()
    assert "interrupted; next: python train.py resume=" in said and "Traceback" not in said
    (run,) = tmp_path.glob("runs/*/*")
    before = len((run / "train.log").read_text().splitlines())
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines()[-1] == f"run: {run}"
    assert [*tmp_path.glob("runs/*/*")] == [run]
    epochs = [line.split()[3] for line in (run / "train.log").read_text().splitlines() if " INFO epoch " in line]
    assert epochs == [str(epoch) for epoch in range(12)], "each once"
    assert before < len((run / "train.log").read_text().splitlines())
    assert json.loads((run / "fitted.json").read_text())["validated"].keys() == set(epochs)
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.safetensors"}
    once_more = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert once_more.stdout.splitlines()[-3:] == ["finished already", *again.stdout.splitlines()[-2:]]
    assert [*tmp_path.glob("runs/*/*")] == [run]


@pytest.mark.slow
def test_a_short_fault_drill(tmp_path: Path) -> None:
    script = ROOT / "experiments" / "benchmarks" / "fault_drill.py"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "1"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] >= 1 and set(figures["faults"].values()) == {0}
