"""The wheel holds what an installation needs beside Python files; `make wheel-check` trains from it. Slow: builds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_settings_templates_and_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(ROOT)]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("twotower-*.whl"))) as wheel:
        names = set(wheel.namelist())
        points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "twotower = twotower.commands.main:main" in points
    tracked = subprocess.run(
        ["git", "ls-files", "twotower", "conf"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {name if name.startswith("twotower/") else f"twotower/{name}" for name in tracked}
    assert expected <= names, sorted(expected - names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {
        "twotower"
    }  # it puts nothing beside the package
