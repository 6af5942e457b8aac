"""Errors of the command line: one message, the nearest valid name, status 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def call(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=marketplac"], "did you mean 'marketplace'?"),
        (["model/user_tower=transformr"], "did you mean 'transformer'?"),
        (["data=events", "data.pth=x"], "did you mean 'data.path'?"),
        (["model.dimm=3"], "did you mean 'model.dim'?"),
        (["optimizer.lerning_rate=1"], "did you mean 'optimizer.learning_rate'?"),
        (["data=events"], "data.path"),
        (["data=events", "data.path=nowhere.parquet"], "no such file"),
        (["model.dim=banana"], "banana"),
        (["resume=nowhere"], "nowhere"),
    ],
    ids=" ".join,
)
def test_a_mistake_gets_one_message_that_helps(arguments: list[str], expected: str, tmp_path: Path) -> None:
    small = ["data.sessions=300", "data.items=50"] if not any(a.startswith("data=") for a in arguments) else []
    result = call("train.py", "logger=none", *small, *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_help_shows_examples_and_choices(tmp_path: Path) -> None:
    text = call("train.py", "--help", cwd=tmp_path).stdout
    assert "data.columns.item_id=sku" in text
    assert "model/user_tower: gru, mean_pool, transformer" in text
