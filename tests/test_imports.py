"""The import table of the design: which room may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"polars", "torch", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "mlflow", "faiss"}
HEAVY |= {"onnx", "onnxruntime", "pyarrow", "rich", "safetensors", "hypothesis", "matplotlib", "optuna", "ray"}

# room -> (heavy packages it may import, rooms of the package it may import)
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "files": (set(), {"errors"}),
    "schema": (set(), {"errors", "files"}),
    "batch": (set(), {"schema"}),
    "ragged": (set(), set()),
    "features": (set(), {"errors", "ragged"}),
    "inputs": (set(), {"errors"}),
    "data": (
        {"polars", "pyarrow", "torch"},
        {"errors", "files", "schema", "batch", "ragged", "features", "inputs", "audit"},
    ),
    "model": ({"torch"}, {"errors", "schema", "batch", "inputs"}),
    "page": ({"matplotlib"}, set()),
    "report": ({"matplotlib", "pyarrow"}, {"schema", "evaluation", "page"}),
    "audit": ({"pyarrow", "matplotlib"}, {"errors", "files", "schema", "inputs", "page"}),
    "evaluation": ({"torch", "torchmetrics", "rich"}, {"errors", "files", "schema", "batch", "inputs", "ragged"}),
    "module": ({"torch", "pytorch_lightning"}, {"schema", "batch", "model", "evaluation"}),
    "preflight": ({"torch"}, {"errors", "evaluation", "model", "module"}),
    "checkpoint": ({"torch", "safetensors"}, {"errors"}),
    "callbacks": ({"torch", "pytorch_lightning"}, {"errors", "schema", "batch", "checkpoint", "evaluation", "model"}),
    "run": ({"hydra", "omegaconf"}, {"errors", "files", "schema", "batch", "inputs", "checkpoint", "model"}),
    "tracker": ({"pytorch_lightning", "mlflow"}, {"files", "tracked"}),
    "registry": ({"mlflow", "pyarrow"}, {"errors", "files", "schema", "run", "serving", "tracked"}),
    "mlflow_model": ({"mlflow"}, {"errors", "serving"}),
    "assess": (
        {"torch", "pytorch_lightning", "omegaconf"},
        {"files", "schema", "batch", "data", "evaluation", "module", "report", "run"},
    ),
    "fitting": (
        {"torch", "pytorch_lightning", "hydra", "omegaconf"},
        {"errors", "schema", "data", "audit", "assess", "callbacks", "checkpoint", "model", "module", "preflight"}
        | {"processes", "run"},
    ),
    "resume": ({"omegaconf"}, {"errors", "checkpoint", "run"}),
    "complete": (
        {"hydra", "omegaconf", "pytorch_lightning"},
        {"files", "schema", "data", "assess", "checkpoint", "fitting", "processes", "resume", "run"},
    ),
    "sweep": (
        {"torch", "pytorch_lightning", "hydra", "omegaconf", "optuna", "rich", "matplotlib"},
        {"errors", "files", "cli", "complete", "fitting", "page", "processes", "resume", "run", "tracker"},
    ),
    "evaluate": (
        {"hydra", "omegaconf"},
        {
            "errors",
            "files",
            "schema",
            "assess",
            "fitting",
            "processes",
            "run",
            "tracked",
            *("other_data", "bundle_answers", "serving"),
        },
    ),
    "other_data": ({"pyarrow"}, {"errors", "files", "schema", "inputs", "run"}),
    "bundle_answers": (
        {"torch"},
        {"assess", "files", "schema", "batch", "data", "evaluation", "other_data", "serving"},
    ),
    "compare": ({"rich"}, {"errors", "schema", "evaluation", "tracked"}),
    "time_forward": ({"rich"}, {"errors", "files", "evaluation", "page", "report", "run"}),
    "tracked": ({"mlflow"}, {"errors"}),
    "cli": ({"hydra", "omegaconf"}, {"errors", "processes"}),
    "processes": ({"torch"}, set()),
    "on_ray": ({"ray"}, {"processes"}),
    "export": (
        {"torch", "faiss", "onnxruntime", "pyarrow"},
        {
            "errors",
            "files",
            "schema",
            "batch",
            "features",
            "inputs",
            "ragged",
            "model",
            "run",
            "serving",
            "page",
            "report",
        },
    ),
    "serving": ({"faiss", "onnxruntime", "pyarrow"}, {"errors", "files", "schema", "batch", "features", "inputs"}),
}


def imports_of(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = [f for f in sorted((ROOT / "twotower").rglob("*.py")) if f.parent.name != "twotower" or f.stem != "__init__"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_file_imports_only_what_its_room_may(file: Path) -> None:
    room = file.relative_to(ROOT / "twotower").parts[0].removesuffix(".py")
    packages, rooms = ROOMS[room]
    for name in imports_of(file):
        first, _, rest = name.partition(".")
        if first in HEAVY:
            assert first in packages, f"{file} imports {name}"
        if first == "twotower":
            assert rest.split(".")[0] in {room, *rooms}, f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_package_never_imports_experiments_or_tests(file: Path) -> None:
    assert not {n for n in imports_of(file) if n.split(".")[0] in {"experiments", "tests", "train", "export"}}


def test_package_files_hold_names_only() -> None:
    for file in (ROOT / "twotower").rglob("__init__.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign) for node in body), file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("twotower.serving.retriever", {"torch", "pytorch_lightning", "hydra", "mlflow", "polars"}),
        ("train", {"polars", "faiss", "mlflow", "optuna", "pyarrow"}),
    ],
)
def test_importing_costs_no_more_than_it_needs(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*{absent!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
