"""Run a function on the configuration that Hydra composes from conf/ and the command line."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from twotower.commands.signals import interrupt_on_termination
from twotower.core.command_line import readable
from twotower.core.distributed import is_first_process
from twotower.core.files import new_directory
from twotower.runs.config_errors import explaining
from twotower.runs.config_folder import CONF
from twotower.runs.ranges import check_ranges

TAKES_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p")
QUIET = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]


def run(task: str | Callable[[DictConfig], object], config_name: str, arguments: Sequence[str]) -> None:
    """Compose `config_name` with `arguments` as overrides and call `task` with it; raises SystemExit on an error.

    Exit status 2: the user can fix it, one message was printed; 130: interrupted.

    Args:
        task: "module:function", imported after the configuration is composed, so that help and mistakes are answered
            before torch is loaded; or the function.
        config_name: the file in conf/, without .yaml.
        arguments: Hydra's overrides and flags.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here whole, instead of being printed by Hydra

    def call_task(config: DictConfig) -> None:
        with explaining(config_name):  # here, too: Hydra would add lines to an error that passes through it
            check_ranges(config)
            function = task
            if isinstance(function, str):
                module, _, name = function.partition(":")
                function = getattr(importlib.import_module(module), name)
            function(config)

    # Of several processes the first alone writes files and logs.
    sys.argv[1:] = [*map(readable, overrides_last(arguments)), *(() if is_first_process() else QUIET)]
    # Runs that begin in the same second get folders of their own.
    OmegaConf.register_new_resolver(
        "new_folder", lambda name: str(new_directory(Path(name))), replace=True, use_cache=True
    )
    interrupt_on_termination()
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which of its builds it tried
    with explaining(config_name):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(call_task)()


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """Flags first, then overrides, each in their order: Hydra refuses overrides on both sides of a flag.

    >>> overrides_last(["experiment=mine", "--config-dir", "a=b", "seed=1"])
    ['--config-dir', 'a=b', 'experiment=mine', 'seed=1']
    """
    flags: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_override = not word.startswith("-") and before not in TAKES_VALUE and ("=" in word or word[:1] in "~+")
        (overrides if is_override else flags).append(word)
    return flags + overrides
