"""A sweep in this process: started, resumed, refused with other settings, reported."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from twotower.commands import hydra_command
from twotower.commands.compose import compose_config
from twotower.sweep import trial
from twotower.sweep.multirun import Sweep
from twotower.sweep.study import load_study
from twotower.training.pipeline import train_with_validation

TINY = ["data.items=60", "data.users=60", "data.sessions=600", "data.days=14", "trainer.max_epochs=1", "refit=false"]
TINY += ["positions_per_batch=256", "trainer.accelerator=cpu", "logger=none"]
GRID = ["-m", "sweep=grid", "sweep.name=ours", "sweep.space.positions_per_batch=null", "sweep.space.optimizer=null"]
GRID += [
    "sweep.space.model={dim: 'choice(8,7,16)'}",
    "sweep.space.model.user_tower=null",
]  # 7 can't be cut in two heads


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Hydra configures logging for the process that it runs in."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    libraries = [logging.getLogger(name) for name in ("hydra", "pytorch_lightning", "faiss.loader")]
    levels = [logger.level for logger in libraries]
    yield
    for handler in {*root.handlers} - {*handlers}:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, before in zip(libraries, levels, strict=True):
        logger.setLevel(before)
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).disabled = False


def typed(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Type `twotower train` in a folder; returns the exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["twotower"])
    try:
        hydra_command.run("twotower.commands.train:train", "train", arguments)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_is_resumed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: Any, prepared: Any, callbacks: Any) -> Any:
        if Path(config.run_dir).name == "1":
            raise KeyboardInterrupt
        return train_with_validation(config, prepared, callbacks)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "train_with_validation", interrupted)
        assert typed(monkeypatch, tmp_path, *GRID, *TINY) == 130
    Sweep._lock.close()  # as the end of the process does
    path = tmp_path / "sweeps" / "ours"
    line = json.loads((path / "sweep.json").read_text())["command"]["line"]
    printed = capsys.readouterr().out
    assert f"interrupted; next: {line}" in printed and line.startswith(f"cd {tmp_path} && ")
    before = (path / "0" / "fitted.json").stat().st_mtime_ns

    assert typed(monkeypatch, tmp_path, *GRID, *TINY) == 0
    assert (path / "0" / "fitted.json").stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "3 trials, 2 of them to do" in printed and "3 trials: 2 complete, 1 failed" in printed
    study = load_study(path, {"name": "ours"})
    assert [t.params for t in study.trials] == [{"model.dim": dim} for dim in ("8", "7", "16")]
    assert "model.dim=7" in study.trials[1].user_attrs["error"]
    best = OmegaConf.load(path / "experiment" / "best.yaml")
    assert str(best.model.dim) == study.best_trial.params["model.dim"]
    assert not (path / ".lock").exists()

    assert typed(monkeypatch, tmp_path, *GRID, *TINY, "seed=1") == 2
    assert "(data.seed: was 0, is 1; seed: was 0, is 1)" in capsys.readouterr().err
    Sweep._lock.close()
    content = json.loads((path / "sweep.json").read_text())
    (path / "sweep.json").write_text(json.dumps({**content, "data_fingerprint": "0123456789abcdef"}))
    assert typed(monkeypatch, tmp_path, *GRID, *TINY) == 2
    assert "data_fingerprint: was 0123456789abcdef, is " in capsys.readouterr().err
    Sweep._lock.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep=tpe"], "takes -m: "),
        (["-m", "sweep=tpe", "model.dim=8,16"], "model.dim=8,16: "),
        (["-m", "sweep=tpe", "data=events", "data.path=nowhere"], "nowhere"),
        (["-m", "sweep=grid", "sweep.space.model.temperature='interval(0,1)'"], "temperature=interval(0,1)"),
        (["-m", "sweep=tpe", "sweep.space.model.dim='choice('"], "sweep.space: model.dim=choice("),
        (
            ["-m", "sweep=tpe", "+sweep.space.model.user_tower.layer='choice(1,2)'"],
            "did you mean 'model.user_tower.lay",
        ),
        (["-m", "sweep=tpe", "+sweep.space.model.dropoutt='choice(0.1,0.2)'"], "sweep.space.model.dropoutt: there is"),
    ],
)
def test_mistakes_are_reported_before_any_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    more = ["trainer.accelerator=cpu", "logger=none"] if "data=events" in arguments else TINY
    assert typed(monkeypatch, tmp_path, *arguments, *more) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("sweeps/*/0/config.yaml")]
    Sweep._lock.close()


@pytest.mark.slow
def test_a_setting_that_a_choice_lacks_is_left_out_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "base.yaml").write_text("# @package _global_\nmodel: {dim: 8}\n")
    words = ["-m", "--config-dir", str(tmp_path / "mine"), "experiment=base", "sweep=grid", "sweep.name=towers", *TINY]
    words += ["sweep.space.model.dim=null", "sweep.space.model.user_tower.dropout=null"]
    words += ["sweep.space.optimizer.learning_rate=null", "sweep.space.model.user_tower.layers='choice(1)'"]
    words += ["+sweep.space={model/user_tower: 'choice(mean_pool,gru)'}"]
    assert typed(monkeypatch, tmp_path, *words) == 0
    Sweep._lock.close()
    path, printed = tmp_path / "sweeps" / "towers", capsys.readouterr().out
    assert "2 trials: 2 complete" in printed
    assert "without model.user_tower.layers, which this choice does not have" in printed
    assert "layers" not in OmegaConf.load(path / "0" / "config.yaml").model.user_tower
    assert OmegaConf.load(path / "1" / "config.yaml").model.user_tower.layers == 1
    best = OmegaConf.load(path / "experiment" / "best.yaml")
    tower = next(word["override /model/user_tower"] for word in best.defaults if "override /model/user_tower" in word)
    assert ("layers" in best.get("model", {}).get("user_tower", {})) == (tower == "gru")

    # The sweep's folder alone is enough, from anywhere.
    config = compose_config("train", {"experiment": "best"}, config_dir=path)
    assert config.model.dim == 8 and config.model.user_tower._target_.lower().count(tower.replace("_", "")[:4])
