"""Errors of the command line: one message, the nearest valid name, status 2, no traceback."""

import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from twotower.commands import hydra_command as cli
from twotower.commands.main import main
from twotower.runs.config_errors import explain


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run `twotower train` in this process, as if typed in `folder`; the exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["twotower"])
    with pytest.raises(SystemExit) as left:
        cli.run("twotower.commands.train:train", "train", arguments)
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=marketplac"], "did you mean 'marketplace'?"),
        (["model/user_tower=transformr"], "did you mean 'transformer'?"),
        (["data=events", "data.pth=x"], "did you mean 'data.path'?"),
        (["model.dimm=3"], "did you mean 'model.dim'?"),
        (["optimizer.lerning_rate=1"], "did you mean 'optimizer.learning_rate'?"),
        (["preparation.features.items={brand: {kind: categorical}}"], "'+preparation.features.items=...'"),
        (["data=events"], "data.path"),
        (["data=events", "data.path=nowhere.parquet"], "no such file"),
        (["data.sessions=300", "data.items=50", "model.dim=banana"], "model.dim=banana; expected a whole number"),
        (["resume=nowhere"], "nowhere"),
        (["evaluation.ks=[5]"], "lacks 20"),
        (["data=events", "data.path=dt=1/e.parquet"], "type 'data.path='\"'\"'dt=1/e.parquet'\"'\"''"),
        (["data=events", "data.path=a,b/e.parquet"], "-m runs each; if the value is a text"),
        (["data=events", "data.path=e(1).parquet"], "data.path=e(1).parquet can't be read; if"),
        (["name=(x"], "name=(x can't be read; if"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message_that_helps(
    arguments: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, tmp_path, "logger=none", *arguments) == 2
    message = capsys.readouterr().err
    assert "error: " in message and "Error executing" not in message
    assert expected in message
    assert not list(tmp_path.rglob("*.safetensors"))


def test_help_shows_examples_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("path: x")
    assert main(["train", "--config-dir", str(tmp_path), "--help"]) == 0
    text = capsys.readouterr().out
    assert "data.columns.item_id=sku" in text
    assert "model/user_tower: gru, linear_recurrence, mean_pool, transformer" in text
    assert "marketplace, mine, movielens" in text and "index: " not in text
    assert main(["export", "-h"]) == 0
    text = capsys.readouterr().out
    assert "segments.number=8" in text and "user_tower" not in text


def test_an_experiment_file_that_can_not_be_composed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose first line is not `# @package _global_`, so that its groups are not those of the run."""
    (tmp_path / "my conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my conf" / "experiment" / "shop.yaml").write_text(
        "# a shop\n# @package _global_\ndefaults: [{override /data: events}]\n"
    )
    assert call(monkeypatch, tmp_path, "--config-dir", "my conf", "experiment=shop") == 2
    assert capsys.readouterr().err.startswith("error: In 'experiment/shop': Could not override")


@pytest.mark.slow
def test_the_keys_of_a_config_dir_are_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "model" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "loss" / "mine.yaml").write_text("_target_: my_shop.losses.mine\nsharpness: 1\n")
    words = ["--config-dir=conf", "model/loss=mine", "logger=none"]
    assert call(monkeypatch, tmp_path, *words, "model.loss.sharpnes=2") == 2
    assert "'model.loss.sharpness'" in capsys.readouterr().err
    assert call(monkeypatch, tmp_path, *words, "model/loss=mien") == 2
    assert "'mine'" in capsys.readouterr().err


def test_a_key_that_the_program_itself_lacks_is_explained_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["twotower"])
    with pytest.raises(SystemExit) as left:
        cli.run(lambda config: config.model.dimm, "train", [])
    assert left.value.code == 2
    assert "model.dimm: there is no such setting; did you mean 'model.dim'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["a=1", "-m", "b=2"], ["-m", "a=1", "b=2"]),
        (["a=1", "--config-dir", "x, y=z", "~b"], ["--config-dir", "x, y=z", "a=1", "~b"]),
        (["+a=1", "--config-dir=x", "b=2"], ["--config-dir=x", "+a=1", "b=2"]),
        (["a=1", "--cfg", "job", "--info", "searchpath"], ["--cfg", "job", "--info", "searchpath", "a=1"]),
    ],
)
def test_flags_may_stand_between_overrides(typed: list[str], expected: list[str]) -> None:
    assert cli.overrides_last(typed) == expected


def test_what_can_not_be_imported_is_named_with_its_setting() -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate({"loss": {"_target_": "my_shop_of_nowhere.hinge"}})
    message = explain(raised.value, "train", [])
    assert message is not None and "loss" in message and "No module named 'my_shop_of_nowhere'" in message


def test_a_configured_part_that_lacks_an_extra_says_what_to_install() -> None:
    error = InstantiationException("Error locating target 'twotower.tracking.logger.Logger'\nfull_key: logger")
    error.__cause__ = ImportError("Error loading module")
    error.__cause__.__cause__ = ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    assert "pip install 'twotower[train]'" in str(explain(error, "train", []))


@pytest.mark.slow
def test_commands_of_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folders: list[Path] = []
    for arguments in ([], [], [], ["-m", "seed=1,2,3"], ["-m", "seed=1,2"]):
        monkeypatch.setattr(sys, "argv", ["twotower"])
        cli.run(lambda config: folders.append(Path(config.run_dir)), "train", ["logger=none", *arguments])
    assert len(set(folders)) == 8 and all(folder.is_dir() for folder in folders)
    assert {folder.parent.parent for folder in folders[:3]} == {tmp_path / "runs"}
    assert all(folder.name.endswith(("-marketplace", "-marketplace-2", "-marketplace-3")) for folder in folders[:3])
    first, second = ({folder.parent for folder in part} for part in (folders[3:6], folders[6:]))
    assert len(first) == len(second) == 1 and first != second
    assert [folder.name for folder in folders[3:]] == ["0", "1", "2", "0", "1"]
