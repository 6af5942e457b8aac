"""The installed command: twotower NAME ..., where each NAME is a file of this folder or a room's own `main`."""

import importlib
import sys
from collections.abc import Sequence

HYDRA = {  # name -> (configuration, task)
    "train": ("train", "twotower.commands.train:train"),
    "export": ("export", "twotower.commands.export:export"),
}
PLAIN = {  # name -> module whose main(arguments) returns a status
    "compare": "twotower.commands.compare",
    "backtest": "twotower.commands.backtest",
    "on-ray": "twotower.commands.on_ray",
    "retrieve": "twotower.serving.retriever",
    "verify": "twotower.serving.verify",
    "measure": "twotower.serving.measure",
    "delta": "twotower.serving.updates.delta",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its status."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    if name in HYDRA:
        from twotower.commands import hydra_command

        config_name, task = HYDRA[name]
        sys.argv[1:] = rest
        hydra_command.run(task, config_name)
        return 0
    status: int = importlib.import_module(PLAIN[name]).main(rest)
    return status
