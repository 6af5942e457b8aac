"""Every line that the commands print to be typed works when it is pasted into a shell, in any other folder.

The work folder's name has what shells and Hydra give a meaning: spaces, parentheses, a comma and an equals sign.
Slow: real processes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.sweep.sweep_report import again

BIN = Path(sys.executable).parent
SMALL = "\ntrainer: {max_epochs: 1}\nrefit: false\nevaluation: {baselines: false, replicates: 0}\n"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": "/tmp"}


def paste(line: str, folder: Path, status: int = 0) -> str:
    """What a line prints that is pasted into a shell in `folder`."""
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def line_after(word: str, printed: str) -> str:
    """The line that stands behind the last `word`."""
    lines = re.findall(rf"{word}:? (.*twotower.*)", printed)
    assert lines, f"no line after {word!r} in:\n{printed}"
    return str(lines[-1])


@pytest.mark.slow
def test_every_printed_line_works_from_another_folder(tmp_path: Path) -> None:
    shop, elsewhere = tmp_path / "My Shop (1), a=b", tmp_path / "else where"
    shop.mkdir(), elsewhere.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for user in range(150):
        time, item = 1_767_225_600 + int(draw.integers(0, 20 * 86_400)), int(draw.integers(40))
        for _ in range(6):
            rows.append((f"u{user}", f"sku {item:02d}", time))
            time, item = time + int(draw.integers(5, 300)), (item + int(draw.integers(1, 3))) % 40
    pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row").write_csv(shop / "log (1).csv")

    printed = paste("twotower init my-shop 'log (1).csv'", shop)
    file = shop / "conf" / "experiment" / "my-shop.yaml"
    others = "\n  - override /logger: none\n  - override /model/user_tower: mean_pool"  # quickly converted to ONNX
    text = file.read_text().replace("override /data: events", f"override /data: events{others}")
    file.write_text(text.replace("model:\n", "model:\n  dim: 16\n") + SMALL)

    trained = paste(line_after("next", printed), elsewhere)
    run = elsewhere / trained.splitlines()[-1].removeprefix("run: ")
    assert run.is_dir()
    finished = paste(f"twotower train resume='{run}'", shop, status=2)  # which says what comes next, too
    assert line_after("next", finished) == line_after("next", trained)

    config = ["--config-dir", str(shop / "conf"), "experiment=my-shop"]
    command = " ".join(f"'{word}'" for word in ["twotower", "evaluate", str(run), *config])
    assert "recall_at_20" in paste(line_after("next", paste(command, elsewhere)), shop)

    exported = paste(line_after("next", trained), elsewhere)
    assert "rank" in paste(line_after("next", exported), shop)
    bundle = elsewhere / exported.splitlines()[-1].removeprefix("bundle: ")
    changed = paste(f"twotower delta remove '{bundle}' 'sku 07'", shop)
    assert "version 1" in paste(line_after("to undo", changed), elsewhere)

    sweep = shop / "sweeps" / "a, b=c"
    (sweep / "experiment").mkdir(parents=True)
    (sweep / "experiment" / "best.yaml").write_text(file.read_text())
    typed = {"overrides": [], "config_folders": [str(shop / "conf")]}
    assert "dim: 16" in paste(f"{again(sweep, typed)} --cfg job", elsewhere)
