"""Two-tower retrieval: from a shop's event logs to item vectors, an index and answers.

The library's names are loaded when they are first used: `import twotower as tt` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.commands.api import (
        Comparison,
        Evaluation,
        ExportedBundle,
        Prepared,
        Retriever,
        TrainedRun,
        UserError,
        compare,
        evaluate,
        export,
        prepare,
        train,
    )

__all__ = [
    "Comparison",
    "Evaluation",
    "ExportedBundle",
    "Prepared",
    "Retriever",
    "TrainedRun",
    "UserError",
    "compare",
    "evaluate",
    "export",
    "prepare",
    "train",
]
# Names that a machine which only serves has, too: without Hydra and torch.
_SERVING = {"Retriever": "twotower.serving.retriever", "UserError": "twotower.core.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_SERVING.get(name, "twotower.commands.api")), name)


def __dir__() -> list[str]:
    return __all__
