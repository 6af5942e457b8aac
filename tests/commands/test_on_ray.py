"""One run on two workers of a Ray cluster on this machine, against the same on one process. Slow: real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked_commands import run

TWOTOWER = Path(sys.executable).with_name("twotower")
SMALL = ["data.items=200", "data.users=200", "data.sessions=3000", "data.days=20", "model.dim=16", "logger=none"]
SMALL += ["trainer.max_epochs=2", "evaluation.baselines=false", "refit=false", "model.user_tower.dropout=0"]
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_NUM_CPUS": "4"}


@pytest.mark.slow
def test_two_workers_train_what_one_process_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    assert run(["train", *SMALL], one).returncode == 0
    command = [TWOTOWER, "on-ray", "--workers", "2", "--", *SMALL]
    done = subprocess.run(command, cwd=two, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [next(folder.glob("runs/*/*")) for folder in (one, two)]
    assert [*two.glob("runs/*/*")] == [runs[1]], "one folder, however many workers"
    expected, found = (json.loads((path / "metrics.json").read_text()) for path in runs)
    for name in ("val/recall_at_20", "test/recall_at_20", "test/ndcg_at_20"):
        assert found[name] == pytest.approx(expected[name], abs=2e-3)
    assert found["test/queries"] == expected["test/queries"]
