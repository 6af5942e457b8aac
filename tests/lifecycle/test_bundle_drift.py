"""Drift of bundles: none against itself or after a rotation; items that are gone count by their events."""

from pathlib import Path

import numpy as np
import pytest
from model_bundle import write_shop_bundle

from twotower.commands.drift import BEYOND
from twotower.commands.main import main
from twotower.lifecycle.bundle_drift import NEIGHBOURS, bundle_drift, neighbour_overlap
from twotower.serving.bundle import open_bundle


def test_a_rotation_is_no_drift_and_noise_is() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0].astype(np.float32)
    assert neighbour_overlap(vectors, vectors @ rotation) > 0.999
    other = random.normal(size=(200, 8)).astype(np.float32)
    assert neighbour_overlap(vectors, other) == pytest.approx(NEIGHBOURS / 199, abs=0.05)


@pytest.mark.slow
def test_a_bundle_against_itself_and_a_smaller_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    large, small = (write_shop_bundle(tmp_path / f"shop-{n}", str, n) for n in (40, 30))
    gone, new, neighbours, answers = bundle_drift(open_bundle(large), open_bundle(large), 0.1)
    assert (gone.value, new.value, neighbours.value, answers.value) == (0, 0, 1, 1)
    gone, new, _, answers = bundle_drift(open_bundle(large), open_bundle(small), 0.1)
    assert gone.value == pytest.approx(sum(range(30, 40)) / sum(range(40))) and new.value == 0  # item i has i events
    assert 0 < answers.value <= 1
    assert main(["drift", str(large), str(small)]) == BEYOND
    assert "beyond the limit: training events of items that are gone" in capsys.readouterr().out.splitlines()
    assert main(["drift", str(large), str(tmp_path)]) == 2
    assert "one is a bundle" in capsys.readouterr().err
