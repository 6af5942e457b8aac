"""The run directory: what it holds before training, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from twotower import run
from twotower.errors import UserError
from twotower.files import read_json
from twotower.schema import Prepared

CONF = Path(__file__).parent.parent / "conf"


def test_a_run_does_not_go_on_with_other_data(begun: Path, make_prepared: Callable[..., Prepared]) -> None:
    with pytest.raises(UserError, match="began with data of fingerprint"):
        run.require_same_data(begun, make_prepared([[1, 2, 3], [3, 2, 1]], train=[3, 1], validation=[0, 1]))


@pytest.fixture
def begun(tmp_path: Path, make_prepared: Callable[..., Prepared]) -> Path:
    """A run directory of a small transformer, with a checkpoint of its fresh weights."""
    prepared = make_prepared([[1, 2, 3, 4], [4, 3, 2], [2, 1, 4, 3, 2]], train=[4, 1, 2], validation=[0, 2, 1])
    overrides = ["run_dir=somewhere", "name=test", "model.dim=8", "model.max_length=3"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=overrides)
    run.begin_run(tmp_path, config, prepared)
    model = run.build_model(config, prepared.num_items)
    state = {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}
    torch.save(state, tmp_path / "checkpoints" / "best.ckpt")
    return tmp_path


def test_a_loaded_run_computes_what_its_checkpoint_held(begun: Path) -> None:
    loaded, again = run.load_run(begun), run.load_run(begun)
    history = torch.tensor([[1, 4, 2]])
    assert torch.equal(loaded.model(history), again.model(history))  # no dropout
    saved = torch.load(begun / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(loaded.model.item_tower.embedding.weight, saved["model.item_tower.embedding.weight"])


def test_sample_histories_are_the_newest_events_before_the_validation_ends(begun: Path) -> None:
    assert read_json(begun / "histories.json", "a run directory") == [[4, 3, 2], [2, 1, 4]]


def test_the_refit_model_goes_before_the_best_and_the_best_before_the_last(begun: Path) -> None:
    folder = begun / "checkpoints"
    (folder / "last.ckpt").write_bytes(b"")
    assert run.checkpoint_of(begun).name == "best.ckpt"
    (folder / "refit.ckpt").write_bytes(b"")
    assert run.checkpoint_of(begun).name == "refit.ckpt"


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("checkpoints/best.ckpt", b"not a checkpoint", "best.ckpt is missing, damaged"),
        ("checkpoints/best.ckpt", pickle.dumps(Malicious(), protocol=2), "best.ckpt is missing, damaged"),
        ("checkpoints/best.ckpt", None, "has no checkpoint yet"),
        ("config.yaml", None, "is not a run directory"),
        ("data.json", b"{", "data.json is damaged"),
        ("data.json", None, "data.json is missing"),
    ],
)
def test_a_damaged_run_is_refused_by_name(begun: Path, file: str, content: bytes | None, expected: str) -> None:
    (begun / file).unlink()
    if content is not None:
        (begun / file).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        run.load_run(begun)


def test_weights_of_another_size_are_refused(begun: Path) -> None:
    text = (begun / "config.yaml").read_text().replace("dim: 8", "dim: 16")
    (begun / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="does not fit the run's configuration"):
        run.load_run(begun)
