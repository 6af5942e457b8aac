"""One run on two processes, as torchrun starts them, against the same on one. Slow: real processes."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from forked_commands import run

from twotower.runs.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ["data.items=200", "data.users=200", "data.sessions=3000", "data.days=20", "model.dim=16", "logger=none"]
SMALL += ["trainer.max_epochs=2", "evaluation.baselines=false", "trainer.accelerator=cpu"]
SMALL += ["model.user_tower.dropout=0"]  # each process would draw its own
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    str(ROOT / "train.py"),
    "trainer=ddp",
]


def call(folder: Path, *words: str) -> list[str]:
    """The lines that a command prints."""
    done = run(words, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def call_both(folder: Path, *settings: str) -> list[str]:
    """The lines that a training on two processes prints."""
    done = subprocess.run([*TORCHRUN, *settings], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_two_processes_train_test_and_export_what_one_does(tmp_path: Path) -> None:
    settings = [*SMALL, "model.horizon=session"]  # each draws for its rows what one process draws for all
    runs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        last = call(folder, "train", *settings)[-1] if name == "one" else call_both(folder, *settings)[-1]
        runs.append(Path(last.removeprefix("run: ")))
        assert [*folder.glob("runs/*/*")] == [runs[-1]], "one folder, however many processes"
    one, two = (json.loads((path / "fitted.json").read_text())["validated"] for path in runs)
    for epoch, metrics in one.items():
        curve = {name: value for name, value in metrics.items() if "_at_" in name}
        assert {name: two[epoch][name] for name in curve} == pytest.approx(curve, abs=2e-3)
    tested = [json.loads((path / "metrics.json").read_text()) for path in runs]
    for name in ("test/recall_at_20", "test/horizon/recall_at_20"):
        assert tested[1][name] == pytest.approx(tested[0][name], abs=2e-3)
    assert tested[1]["test/queries"] == tested[0]["test/queries"]
    weights = [read_checkpoint(path / "checkpoints" / "refit.safetensors")["state_dict"] for path in runs]
    for name, expected in weights[0].items():
        if isinstance(expected, torch.Tensor) and expected.is_floating_point():
            torch.testing.assert_close(weights[1][name], expected, atol=5e-3, rtol=0)
    bundle = call(tmp_path, "export", f"run={runs[1]}")[-1]
    assert (tmp_path / bundle.removeprefix("bundle: ") / "manifest.json").is_file()


@pytest.mark.slow
def test_two_processes_that_are_killed_and_share_a_table_come_to_what_one_comes_to(tmp_path: Path) -> None:
    sharded = [*SMALL, "model.item_tower.sharded=true", "trainer.max_epochs=3"]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    call(one, "train", *sharded)
    command = [*TORCHRUN, *sharded, "resume=auto"]
    with (two / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=two, stdout=log, stderr=log)
        deadline = time.monotonic() + 200
        while "epoch 1" not in (two / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (two / "log").read_text()
            time.sleep(0.05)
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()
    call_both(two, *sharded, "resume=auto")
    runs = [next(folder.glob("runs/*/*")) for folder in (one, two)]
    assert [*two.glob("runs/*/*")] == [runs[1]]
    log_lines = (runs[1] / "train.log").read_text().splitlines()
    assert any("resuming" in line for line in log_lines)
    expected, found = (json.loads((path / "fitted.json").read_text())["validated"] for path in runs)
    for epoch, metrics in expected.items():
        curve = {name: value for name, value in metrics.items() if "_at_" in name}
        assert {name: found[epoch][name] for name in curve} == pytest.approx(curve, abs=2e-3)
    weights = [read_checkpoint(path / "checkpoints" / "refit.safetensors")["state_dict"] for path in runs]
    name = "model.item_tower.embedding.weight"
    torch.testing.assert_close(weights[1][name], weights[0][name], atol=5e-3, rtol=0)


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_one_message(tmp_path: Path) -> None:
    command = [*TORCHRUN, *SMALL, "preparation.memory_gib=0.1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "memory_gib=0.1; expected 0.75 or more" in done.stderr
    assert "Error executing job" not in done.stderr
