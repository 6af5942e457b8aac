"""The installed command: `twotower NAME ...`. Each NAME is a file of this folder or a room's own `main`."""

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from twotower.core.errors import UserError, nearest
from twotower.core.extras import install_hint
from twotower.runs.config_folder import config_dirs, help_text


class Command(NamedTuple):
    """One command."""

    group: str
    target: str  # MODULE:FUNCTION with FUNCTION(arguments) -> exit status, imported when it is called
    help: str
    usage: str = ""  # its arguments; empty: the function itself answers --help
    takes_bundle: bool = False  # as its first argument; also one that MLflow has


EVALUATE = """\
RUN [KEY=VALUE ...]

  RUN        a run's folder, a bundle, an MLflow run id, or models:/NAME@ALIAS
  KEY=VALUE  settings of `twotower train`: the data, the split, evaluation.*; see `twotower train --help`

Nothing is trained. The data may be any: items are matched by their ids.

  twotower evaluate runs/2026-01-31/12-00-00-shop data=events data.path=february.parquet"""
DELTA = """\
ACTION BUNDLE ...

  upsert BUNDLE ITEMS [NAME=COLUMN ...]  add and change the items of a table: item_id and features
  remove BUNDLE ITEM_ID ...       remove items; or those of a table: remove BUNDLE ITEMS
  rollback BUNDLE [VERSION]       answer from the version before, or from this one
  versions BUNDLE                 list the versions"""
COMMANDS = {
    "demo": Command("Start", "twotower.commands.demo:main", "a small shop's recommendations in the browser, at once"),
    "init": Command("Start", "twotower.commands.init:main", "write a settings file from a look at your own events"),
    "completion": Command("Start", "twotower.commands.completion:main", "set up completion for bash, zsh or fish"),
    "train": Command("Train", "twotower.commands.main:train", "prepare events, train and test a model"),
    "on-ray": Command("Train", "twotower.commands.on_ray:main", "train one run on the machines of a Ray cluster"),
    "evaluate": Command("Compare", "twotower.commands.main:evaluate", "test a run or a bundle on any data", EVALUATE),
    "compare": Command("Compare", "twotower.commands.compare:main", "which of two models is better, and for whom"),
    "backtest": Command("Compare", "twotower.commands.backtest:main", "runs of different dates: how a model ages"),
    "experiment": Command(
        "Compare",
        "twotower.commands.experiment:main",
        "A/B tests: the value beforehand, the read-out, how long they run",
    ),
    "sweep-report": Command("Compare", "twotower.commands.sweep_report:main", "table and page of a sweep's trials"),
    "export": Command("Serve", "twotower.commands.main:export", "turn a run into a bundle that serves without torch"),
    "retrieve": Command(
        "Serve",
        "twotower.serving.retrieve:main",
        "items for one history, from a bundle",
        "BUNDLE [--strict] [--objective=TYPE] ITEM_ID [ITEM_ID ...]\n\nThe items of the history, oldest first.\n"
        "  --strict          refuse items that the bundle does not have, instead of skipping them\n"
        "  --objective=TYPE  what comes next of this event type, if the model can be asked for one",
        takes_bundle=True,
    ),
    "verify": Command(
        "Serve",
        "twotower.serving.verify:main",
        "check that a bundle answers as the trained model did",
        "BUNDLE",
        takes_bundle=True,
    ),
    "measure": Command(
        "Serve",
        "twotower.serving.measure:main",
        "latency, memory and start-up time of a bundle",
        "BUNDLE",
        takes_bundle=True,
    ),
    "sign": Command(
        "Serve",
        "twotower.serving.signature:main",
        "sign a bundle, for servers that ask for it",
        "BUNDLE KEY\n\nKEY is a file with an ed25519 private key in PEM; make one, and the servers' public key, with:\n"
        "  openssl genpkey -algorithm ed25519 -out sign.pem\n"
        "  openssl pkey -in sign.pem -pubout -out trusted.pem",
    ),
    "score": Command(
        "Serve", "twotower.commands.score:main", "items for every user of event files, in a batch", takes_bundle=True
    ),
    "load": Command(
        "Serve",
        "twotower.commands.load:main",
        "write a bundle's vectors to pgvector, Milvus, Qdrant or LanceDB",
    ),
    "serve": Command("Live", "twotower.server.serve:main", "answer over HTTP, with a memory of users' events"),
    "retrain": Command("Live", "twotower.commands.main:retrain", "the nightly job: new events to a promoted model"),
    "promote": Command("Live", "twotower.commands.main:promote", "let a candidate replace the champion if no worse"),
    "rollback": Command("Live", "twotower.commands.rollback:main", "one step back: the champion before"),
    "drift": Command("Live", "twotower.commands.drift:main", "how far the shop has moved since a training"),
    "erase": Command("Live", "twotower.commands.erase:main", "erase users from files, and name what learnt from them"),
    "consume": Command(
        "Live",
        "twotower.server.streams.consume:main",
        "events from Kafka or Redis into the server's store, and Parquet",
    ),
    "delta": Command("Serve", "twotower.serving.updates.delta:main", "add, change or remove a bundle's items", DELTA),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 a mistake that the user can fix, 130 interrupted."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"twotower {version('twotower')}")
        return 0
    if name not in COMMANDS:
        return _refuse(
            f"twotower has no command {name!r}{nearest(name, COMMANDS) or '.'} All commands: twotower --help"
        )
    called = COMMANDS[name]
    if called.usage and {"-h", "--help"} & set(rest[:1]):
        first, _, rest_of_usage = called.usage.partition("\n")
        print(f"usage: twotower {name} {first}\n\n{called.help[0].upper()}{called.help[1:]}.\n{rest_of_usage}".rstrip())
        return 0
    module, _, function = called.target.partition(":")
    try:
        with ExitStack() as scratch:
            if called.takes_bundle and rest:
                rest[0] = str(local_bundle(rest[0], scratch))
            status: int = getattr(importlib.import_module(module), function)(rest)
        sys.stdout.flush()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        hint = install_hint(error)
        if hint is None:
            raise
        return _refuse(hint)
    return status


def local_bundle(name: str, scratch: ExitStack) -> Path:
    """The folder of a bundle; where MLFLOW_TRACKING_URI has it, downloaded until `scratch` is closed."""
    from twotower.tracking.lookup import DEFAULT_TRACKING_URI, MLFLOW_NAME, locate

    if Path(name).exists() or not MLFLOW_NAME.fullmatch(name):
        return Path(name)
    folder = Path(scratch.enter_context(tempfile.TemporaryDirectory()))
    return locate(name, os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_TRACKING_URI), folder, "bundle")


def usage() -> str:
    """All commands by group, one line each."""
    lines = [
        "usage: twotower COMMAND ...",
        "",
        "Train a user tower and an item tower on a shop's events, and serve them.",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<14}{command.help}" for name, command in COMMANDS.items() if command.group == group]
    return "\n".join([*lines, "", "Each command has --help. Version: twotower --version"])


def train(arguments: Sequence[str]) -> int:
    """`twotower train`: Hydra's overrides and flags."""
    return _composed("twotower.commands.train:train", "train", arguments)


def export(arguments: Sequence[str]) -> int:
    """`twotower export`: Hydra's overrides and flags."""
    return _composed("twotower.commands.export:export", "export", arguments)


def _composed(task: str, config_name: str, arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(help_text(config_name, config_dirs(arguments)))
        return 0
    from twotower.commands import hydra_command

    hydra_command.run(task, config_name, arguments)
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """`twotower evaluate RUN`: training's configuration with evaluate=RUN."""
    if not arguments:
        return _refuse(f"which run? twotower evaluate {EVALUATE.splitlines()[0]}; see twotower evaluate --help")
    run, *overrides = arguments
    if run.startswith("-") or ("=" in run and not Path(run).exists()):
        return _refuse(f"expected the run first, got {run}: twotower evaluate RUN {run} ...")
    from twotower.core.command_line import override

    return train([override("evaluate", run), *overrides])


def promote(arguments: Sequence[str]) -> int:
    """`twotower promote CANDIDATE`: Hydra's overrides and flags, the candidate first."""
    task = "twotower.commands.promote:main_promote"
    return _composed(task, "promote", _first_as("candidate", arguments))


def retrain(arguments: Sequence[str]) -> int:
    """`twotower retrain NAME`: Hydra's overrides and flags, the model's name first."""
    task = "twotower.commands.retrain:main_retrain"
    words = [word for word in arguments if not word.startswith("-")]
    asks = {"-h", "--help", "--cfg", "-c"} & set(arguments)
    if not asks and (not words or "=" in words[0]) and not any(word.startswith("register=") for word in words):
        return _refuse("which model? twotower retrain NAME data=...; NAME is what it is called in MLflow's registry")
    return _composed(task, "retrain", _first_as("register", arguments))


def _first_as(key: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with a first one that is no override and no flag as that of `key`."""
    from twotower.core.command_line import override

    first, *rest = [*arguments] or [""]
    return [override(key, first), *rest] if first and first[0] != "-" and "=" not in first else list(arguments)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
