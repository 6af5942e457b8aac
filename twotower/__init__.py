"""Two-tower retrieval: from a shop's event logs to item vectors, an index and answers.

The library's names are loaded when they are first used: `import twotower as tt` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.commands.api import Evaluation, ExportedBundle, TrainedRun, compare, evaluate, export, prepare, train
    from twotower.core.errors import UserError
    from twotower.core.schema import Prepared
    from twotower.evaluation.comparison import Comparison
    from twotower.serving.retriever import Retriever

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
_MODULES = {  # name -> where it is, if not in twotower.commands.api, which needs Hydra and torch
    "Comparison": "twotower.evaluation.comparison",
    "Prepared": "twotower.core.schema",
    "Retriever": "twotower.serving.retriever",
    "UserError": "twotower.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES.get(name, "twotower.commands.api")), name)


def __dir__() -> list[str]:
    return __all__
