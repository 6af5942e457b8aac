"""Which run goes on and how; and runs that are killed or told to leave, as their user sees it."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fault_drill
import numpy as np
import pytest
from forked_commands import run, start
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from twotower.core.errors import UserError
from twotower.core.schema import Prepared
from twotower.runs import resume
from twotower.runs.lock import exclusive_lock

ROOT = Path(__file__).parents[2]
SMALL = ["data.items=200", "data.users=200", "data.sessions=3000", "data.days=20", "model.dim=16", "logger=none"]
SMALL += ["trainer.max_epochs=8", "callbacks.early_stopping.patience=99", "refit=false", "evaluation.baselines=false"]


def begin(folder: Path, **changes: Any) -> DictConfig:
    """The configuration of a run in `folder`, written there as a run that has begun leaves it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = compose("train", overrides=["run_dir=somewhere", "name=test"])
    config = OmegaConf.merge(plain, {"run_dir": str(folder), "resume": None, **changes})
    assert isinstance(config, DictConfig)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (folder / "data.json").write_text('{"fingerprint": "a"}')
    (folder / ".lock").touch()
    return config


def prepared(fingerprint: str = "a") -> Prepared:
    column = np.zeros(0, int)
    return Prepared(Path("prepared"), {"fingerprint": fingerprint}, *[column] * 7, inputs={})


def asked_for(config: DictConfig, fingerprint: str = "a") -> Path:
    """The run that a command goes on with; its own new folder where there is none."""
    new = Path(config.run_dir)
    with ExitStack() as locks:
        runs = resume.runs_to_go_on_with(config.resume, new, config)
        return resume.claim_run(runs, new, config, prepared(fingerprint), locks)


@pytest.mark.slow
def test_auto_finds_the_newest_unfinished_run_of_the_same_command(tmp_path: Path) -> None:
    day = tmp_path / "runs" / "2026-01-31"
    wanted = begin(day.parent / "2026-01-30" / "12-00-00-a", seed=1)
    asked = OmegaConf.merge(wanted, {"run_dir": str(day / "now"), "resume": "auto"})
    assert isinstance(asked, DictConfig)
    assert asked_for(asked) == Path(wanted.run_dir)
    begin(day / "other-seed", seed=2)
    assert asked_for(asked) == Path(wanted.run_dir)
    newer = Path(begin(day / "newer", seed=1).run_dir)
    os.utime(newer / "config.yaml", (2e9, 2e9))
    assert asked_for(asked) == newer
    with exclusive_lock(newer):
        assert asked_for(asked) == Path(wanted.run_dir), "another process is at work there"
        with pytest.raises(UserError, match="another process is at work"), exclusive_lock(newer):
            pass
    resume.mark_finished(newer)
    (newer / "metrics.json").touch()
    assert asked_for(asked) == newer and resume.is_finished(newer), "done once is done"
    nowhere = OmegaConf.merge(asked, {"seed": 3})
    assert isinstance(nowhere, DictConfig)
    assert asked_for(nowhere) == Path(asked.run_dir)
    assert asked_for(asked, "b") == Path(asked.run_dir), "the files' content has changed"


def test_runs_that_start_together_share_nothing(tmp_path: Path) -> None:
    day = tmp_path / "runs" / "2026-01-31"
    wanted = begin(day / "killed")
    asked = [OmegaConf.merge(wanted, {"run_dir": str(day / f"now-{n}"), "resume": "auto"}) for n in range(3)]
    with ExitStack() as locks:
        chosen = []
        for config in asked:
            assert isinstance(config, DictConfig)
            new = Path(config.run_dir)
            runs = resume.runs_to_go_on_with("auto", new, config)
            chosen.append(resume.claim_run(runs, new, config, prepared(), locks))
        assert chosen == [day / "killed", day / "now-1", day / "now-2"]
    assert not (day / "now-1" / ".lock").exists(), "no run has begun there"


def test_a_run_that_is_named_needs_its_own_data(tmp_path: Path) -> None:
    config = OmegaConf.merge(begin(tmp_path / "run"), {"resume": str(tmp_path / "run")})
    assert isinstance(config, DictConfig)
    assert asked_for(config) == tmp_path / "run"
    with pytest.raises(UserError, match="fingerprint a, and now it is b"):
        asked_for(config, "b")


def test_a_folder_with_files_of_others_stays(tmp_path: Path) -> None:
    root = logging.getLogger()
    for name, others in (("mine", []), ("theirs", ["notes.txt"]), ("begun", ["config.yaml"])):
        folder = tmp_path / name
        folder.mkdir()
        for file in others:
            (folder / file).touch()
        handler = logging.FileHandler(folder / "train.log")
        root.addHandler(handler)
        try:
            with pytest.raises(UserError), resume.removed_unless_begun(folder):
                raise UserError("a mistake")
        finally:
            root.removeHandler(handler)
            handler.close()
        assert folder.exists() == bool(others)
    with pytest.raises(ZeroDivisionError), resume.removed_unless_begun(tmp_path / "theirs"):
        _ = 1 / 0


def test_a_run_that_was_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    config = begin(tmp_path / "runs" / "began", name=f"{tmp_path}/runs/began-not-this")
    moved = tmp_path / "moved"
    (tmp_path / "runs" / "began").rename(moved)
    found = resume.resumed_config(moved)
    assert found.run_dir == str(moved)
    assert found.callbacks.best_checkpoint.dirpath == f"{moved}/checkpoints"
    assert found.name == config.name and found.model == config.model


def test_a_finished_run_does_not_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = OmegaConf.merge(begin(folder), {"resume": str(folder)})
    assert isinstance(config, DictConfig)
    (folder / "metrics.json").touch()
    assert asked_for(config) == folder, "the report may be missing yet"
    resume.mark_finished(folder)
    with pytest.raises(UserError, match=r"is finished; next: .* export run="):
        asked_for(config)


def test_what_kills_left_behind_goes_when_the_run_goes_on_and_the_rest_at_its_end(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    names = ["best", "refit", "last", "previous_last", "refit_last", "previous_refit_last"]
    kept = [checkpoints / f"{name}.safetensors" for name in names] + [tmp_path / "metrics.json", tmp_path / ".env"]
    left = [checkpoints / ".last.safetensors.4711", checkpoints / ".tmpnTg6OI", tmp_path / ".metrics.json.12"]
    for file in [*kept, *left]:
        file.touch()
    with exclusive_lock(tmp_path):
        assert {file for file in tmp_path.rglob("*") if file.is_file()} == {*kept, tmp_path / ".lock"}
        resume.mark_finished(tmp_path)
    assert {file.name for file in tmp_path.rglob("*")} == {
        *("checkpoints", "best.safetensors", "refit.safetensors", "metrics.json", ".env")
    }


def test_the_log_goes_on_in_the_run_that_goes_on(tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    fresh.mkdir()
    old.mkdir()
    (old / "train.log").write_text("before\n")
    handler = logging.FileHandler(fresh / "train.log")
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        root.error("to the new folder")
        resume.continue_log(fresh, old)
        root.error("after")
        resume.continue_log(old, old)
    finally:
        root.removeHandler(handler)
        handler.close()
    assert not fresh.exists()
    assert (old / "train.log").read_text() == "before\nafter\n"


@pytest.mark.slow
def test_a_machine_that_is_taken_back_costs_nothing(tmp_path: Path) -> None:
    command = ["train", *SMALL, "resume=auto"]
    for notice, epoch in ((signal.SIGTERM, 1), (signal.SIGUSR1, 3)):
        log = tmp_path / notice.name
        process = start(command, tmp_path, log)
        deadline = time.monotonic() + 120
        while not log.exists() or f"epoch {epoch}" not in log.read_text():
            assert process.exitcode is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        os.kill(process.pid or 0, notice)
        process.join(60)
        assert process.exitcode == 130
        printed = log.read_text()
        assert f"interrupted; next: cd {tmp_path} && " in printed and "Traceback" not in printed
        (folder,) = tmp_path.glob("runs/*/*")
    before = len((folder / "train.log").read_text().splitlines())
    again = run(command, tmp_path)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == f"run: {folder}"
    assert [*tmp_path.glob("runs/*/*")] == [folder]
    epochs = [line.split()[3] for line in (folder / "train.log").read_text().splitlines() if " INFO epoch " in line]
    assert epochs == [str(epoch) for epoch in range(8)], "each once"
    assert before < len((folder / "train.log").read_text().splitlines())
    assert json.loads((folder / "fitted.json").read_text())["validated"].keys() == set(epochs)
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"best.safetensors"}


@pytest.mark.slow
def test_a_short_fault_drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data.items=100", "data.users=100", "data.sessions=800", "data.oracle=false", "model.dim=16"]
    small += ["trainer.max_epochs=2", "evaluation.replicates=0", "model/user_tower=gru"]  # quickly converted to ONNX
    monkeypatch.setattr(sys, "argv", ["fault_drill.py", "--kills", "1", "--trials", "2", *small])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as left:
        fault_drill.main()
    printed = capsys.readouterr()
    assert left.value.code == 0, printed.out + printed.err
    figures = json.loads(printed.out.splitlines()[-1])
    assert sum(figures["kills"].values()) >= 1 and set(figures["faults"].values()) == {0}
