"""`twotower`: help, mistakes and missing packages are answered in one message; completion through a real bash."""

import importlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from twotower.commands import main as command
from twotower.commands.completion import candidates

BIN = Path(sys.executable).parent


def test_help_lists_each_command_once_and_loads_nothing_heavy() -> None:
    code = "import sys; from twotower.commands.main import main; main([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, modules = done.stdout.splitlines()
    assert not {"torch", "hydra", "numpy", "faiss", "polars", "rich"} & set(modules.split())
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(command.COMMANDS)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_can_be_imported(name: str) -> None:
    module, _, function = command.COMMANDS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


COMPOSED = {"train": "data=events", "export": "run=RUN", "promote": "champion=", "retrain": "warm_epochs"}  # by Hydra


@pytest.mark.parametrize(("name", "setting"), COMPOSED.items())
def test_commands_with_settings_have_help(name: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"twotower {name} " in text and setting in text


@pytest.mark.parametrize("name", [name for name in command.COMMANDS if name not in COMPOSED])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = command.main([name, "--help"])
    except SystemExit as left:  # argparse's way
        status = int(left.code or 0)
    assert status == 0
    assert f"usage: twotower {name}" in capsys.readouterr().out


def test_the_installed_script_is_main() -> None:
    done = subprocess.run([BIN / "twotower", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"twotower {version('twotower')}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "'train'"),
        (["evaluate"], "twotower evaluate RUN"),
        (["evaluate", "data=events"], "twotower evaluate RUN data=events"),
        (["evaluate", "-m"], "twotower evaluate RUN -m"),
        (["delta", "upser", "bundle", "items"], "did you mean 'upsert'?"),
        (["delta", "roll-back", "bundle"], "did you mean 'rollback'?"),
        (["delta", "xyz"], "there are upsert, remove, rollback, versions"),
        (["verify", "models:/shop@champion"], "models:/shop@champion is no folder, and there is no MLflow database"),
        (["measure", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_with_status_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert command.main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_evaluate_is_training_s_configuration_with_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got: list[list[str]] = []
    monkeypatch.setattr(command, "train", lambda arguments: got.append(list(arguments)) or 0)
    (tmp_path / "a=b (1)").mkdir()
    assert command.main(["evaluate", str(tmp_path / "a=b (1)"), "data=events", "data.path=x"]) == 0
    assert got == [[f"evaluate='{tmp_path}/a=b (1)'", "data=events", "data.path=x"]]


@pytest.mark.parametrize(
    ("module", "expected"),
    [("rich.console", "'twotower[train]'"), ("hydra", "'twotower[train]'"), ("ray", "'twotower[cluster]'")],
)
def test_a_missing_extra_names_what_to_install(
    module: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(command.importlib, "import_module", missing)
    assert command.main(["compare", "a", "b"]) == 2
    message = capsys.readouterr().err
    assert f"pip install {expected}" in message and "Traceback" not in message


def test_a_missing_module_of_no_extra_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'my_own'", name="my_own")

    monkeypatch.setattr(command.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="my_own"):
        command.main(["compare"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("twotower", list(command.COMMANDS)),
        ("twotower ver", ["verify"]),
        ("twotower train data=ev", ["data=events"]),
        ("twotower train experiment=otto model.max_len", ["model.max_length="]),
        ("twotower evaluate runs/x model/user_tower=gr", ["model/user_tower=gru"]),
        ("twotower evaluate runs/", []),  # file names: the shell knows them
        ("twotower export index=ex", ["index=exact"]),
        ("twotower compare runs/", []),
    ],
)
def test_completion_offers_commands_groups_choices_and_settings(line: str, expected: list[str]) -> None:
    assert [word.strip() for word in candidates(line)] == expected


def test_bash_completes_through_the_printed_script() -> None:
    line = "twotower expo"
    script = (
        'eval "$(twotower completion bash)"; '
        f"COMP_LINE='{line}'; COMP_POINT={len(line)}; _twotower; "
        'printf "[%s]" "${COMPREPLY[@]}"; complete -p twotower'
    )
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[export ]complete -o default -o nospace -F _twotower twotower\n"


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    # The command prints far more than a pipe holds, and its reader leaves after one line.
    code = (
        "import sys; from twotower.commands import main as m; "
        "sys.modules['talker'] = talker = type(sys)('talker'); talker.main = lambda a: print('x\\n' * 10**6) or 0; "
        "m.COMMANDS['talk'] = m.Command('Serve', 'talker:main', ''); sys.exit(m.main(['talk']))"
    )
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | head -n 1', sys.executable, code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
