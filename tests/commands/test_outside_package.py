"""A package outside this repository brings a tower, a loss, a sampler, a reader, a baseline and a metric of its own.

It is installed beside twotower, used through --config-dir, exported and proven. Slow: real processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PACKAGE = Path(__file__).parents[1] / "outside_package"
TWOTOWER = str(Path(sys.executable).with_name("twotower"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package in site/, and receipts in which item i is followed by i + 1 or i + 2."""
    folder = tmp_path_factory.mktemp("My Shop (1), a=b")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(PACKAGE)]
    subprocess.run([*command, "--target", str(folder / "site")], check=True, capture_output=True)
    draw = np.random.default_rng(0)
    lines = []
    for receipt in range(400):
        time, item = 1_767_225_600 + int(draw.integers(0, 20 * 86_400)), int(draw.integers(60))
        for _ in range(6):
            moment = np.datetime64(time, "s").item().isoformat(" ")
            lines.append(f"{moment}|r{receipt}|sku-{item:02d}")
            time, item = time + int(draw.integers(5, 300)), (item + int(draw.integers(1, 3))) % 60
    (folder / "receipts.txt").write_text("\n".join(lines) + "\n")
    return folder


def call(folder: Path, *words: str, with_package: bool = True) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "site") if with_package else ""}
    done = subprocess.run([TWOTOWER, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_own_parts_from_training_to_a_proven_bundle(shop: Path) -> None:
    experiment = ["--config-dir", "site/my_shop/conf", "experiment=my_shop", "data.path=receipts.txt"]
    call(
        shop,
        "train",
        *experiment,
        "run_dir=run",
        "hydra.run.dir=run",
        "logger=none",
        "refit=false",
        "evaluation.replicates=100",
    )
    metrics = json.loads((shop / "run" / "metrics.json").read_text())
    assert metrics["test/recall_at_20"] > 1.2 * metrics["baseline/newest/recall_at_20"] > 0
    # of each query 1 >= 1 / sqrt(rank) >= 1 / rank
    assert metrics["test/recall_at_20"] > metrics["test/root_rank_at_20"] > metrics["test/mrr_at_20"]
    assert {"val/root_rank_at_20", "baseline/newest/root_rank_at_20"} <= set(metrics)
    config = (shop / "run" / "config.yaml").read_text()
    for part in ("towers.LastTwoTower", "losses.hinge", "negatives.Uniform", "readers.read_receipts"):
        assert f"my_shop.{part}" in config
    compared = call(shop, "compare", "run", "run", "--metric", "root_rank_at_20")
    assert "root_rank_at_20" in "\n".join(compared)

    call(shop, "export", "run=run", "out=bundle")
    # serving knows nothing of the package
    assert "largest difference" in call(shop, "verify", "bundle", with_package=False)[-1]
    ranked = call(shop, "retrieve", "bundle", "sku-10", "sku-11", with_package=False)
    assert len(ranked) == 11 and {"sku-12", "sku-13"} & {line.split()[1] for line in ranked[1:]}
