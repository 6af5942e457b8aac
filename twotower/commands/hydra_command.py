"""From the command line to a function, with errors that name the nearest valid key or choice."""

import importlib
import os
import signal
import sys
import threading

import hydra
from omegaconf import DictConfig

from twotower.core.distributed import is_first_process
from twotower.runs.config_errors import CONF, explaining


def run(task: str, config_name: str) -> None:
    """Compose `config_name` from conf/ and the command line and call `task`; leave with a status.

    `task` is "module:function", imported once the configuration is composed: help and mistakes are answered at once.

    Status 0: done; 2: the user can mend it, one message was printed; 130: interrupted.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here whole, instead of being printed by Hydra

    def explained(config: DictConfig) -> None:
        with explaining(config_name):  # here, too: on its way out Hydra would add lines of its own
            module, _, function = task.partition(":")
            getattr(importlib.import_module(module), function)(config)

    if not is_first_process():  # of several; the first writes and talks
        sys.argv += [
            "hydra.run.dir=.",
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
        ]
    if threading.current_thread() is threading.main_thread():  # as Python wants it
        for notice in (signal.SIGTERM, signal.SIGUSR1):  # of a cluster that wants its machine back
            signal.signal(notice, signal.default_int_handler)  # as Ctrl-C
    with explaining(config_name):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(explained)()
