"""What serving costs, measured in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest

from twotower.serving import measure


@pytest.mark.slow
def test_figures_of_a_bundle(make_bundle: Any) -> None:
    path = make_bundle([1, 2, 3, 4])
    done = subprocess.run([sys.executable, "-m", "twotower.serving.measure", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] < 1000 * figures["cold_start_s"]
    assert 20 < figures["peak_memory_mb"] < 2000  # an interpreter with numpy and faiss, without torch


def test_wrong_use_is_told(tmp_path: Any, capsys: Any) -> None:
    assert measure.main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert measure.main([str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err
