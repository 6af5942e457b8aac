"""The import table of the design: which room may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"polars", "torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "hydra", "omegaconf", "mlflow"}
HEAVY |= {"faiss", "onnx", "onnxruntime", "pyarrow", "rich", "safetensors", "hypothesis", "matplotlib", "optuna", "ray"}
HEAVY |= {"sklearn", "jinja2", "scipy", "pydantic", "fastapi", "starlette", "uvicorn", "orjson", "prometheus_client"}
HEAVY |= {"redis", "confluent_kafka", "cryptography", "psycopg", "pgvector", "qdrant_client", "pymilvus", "lancedb"}
DATABASES = {"psycopg", "pgvector", "qdrant_client", "pymilvus", "lancedb"}
SERVER = {"fastapi", "starlette", "uvicorn", "pydantic", "orjson", "prometheus_client", "redis", "confluent_kafka"}

# (room, heavy packages it may import), lowest first: a room imports itself and rooms above it in this list.
ROOMS: list[tuple[str, set[str]]] = [
    ("core", set()),
    ("features", set()),
    ("model", {"torch"}),
    ("metrics", {"torch", "torchmetrics"}),
    ("audit", {"pyarrow"}),
    ("data", {"polars", "pyarrow", "torch"}),
    ("runs", {"torch", "hydra", "omegaconf", "safetensors", "lightning_fabric"}),
    ("serving", {"faiss", "onnxruntime", "pyarrow", "cryptography"}),
    ("tracking", {"mlflow", "pytorch_lightning", "pyarrow", "pydantic"}),
    ("evaluation", {"torch", "omegaconf", "pyarrow", "rich"}),
    ("report", {"jinja2", "matplotlib", "pyarrow", "sklearn"}),
    ("training", {"torch", "pytorch_lightning", "hydra", "omegaconf"}),
    ("segments", {"faiss", "polars", "pyarrow", "scipy", "sklearn"}),
    ("exporting", {"torch", "faiss", "jinja2", "onnxruntime", "pyarrow", *DATABASES}),
    ("sweep", {"torch", "pytorch_lightning", "hydra", "omegaconf", "optuna", "rich"}),
    ("lifecycle", {"polars", "pyarrow", "scipy"}),
    ("server", {*SERVER, "pyarrow"}),
    ("commands", {"hydra", "omegaconf", "lightning_fabric", "rich", "ray"}),
]
ORDER = [room for room, _ in ROOMS]
WITHOUT = {  # rooms above that a room does not know all the same
    "serving": {"model", "metrics", "audit", "data", "runs"},
    "data": {"model", "metrics"},
    "server": {"model", "metrics", "audit", "data", "runs", "training", "evaluation", "sweep"},
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
    room = file.relative_to(ROOT / "twotower").parts[0]
    place, packages = ORDER.index(room), dict(ROOMS)[room]
    for name in imports_of(file):
        first, _, rest = name.partition(".")
        if first in HEAVY:
            assert first in packages, f"{file} imports {name}"
        assert first not in {"experiments", "tests", "train", "export"}, f"{file} imports {name}"
        if first == "twotower":
            other = rest.split(".")[0]
            assert other in ORDER[: place + 1] and other not in WITHOUT.get(room, ()), f"{file} imports {name}"


def test_the_package_has_few_entries_and_a_row_for_each_room() -> None:
    entries = {entry.name for entry in (ROOT / "twotower").iterdir()} - {"__pycache__"}
    assert len(entries) <= 20
    assert entries - {"__init__.py", "py.typed"} == set(ORDER)


def test_package_files_hold_names_only() -> None:
    for file in (ROOT / "twotower").rglob("*/__init__.py"):  # the package's own loads the library's names lazily
        body = ast.parse(file.read_text(encoding="utf-8")).body
        assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign) for node in body), file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("twotower.serving.retriever", {"torch", "pytorch_lightning", "hydra", "mlflow", "polars"}),
        pytest.param(
            "twotower.commands.train", {"polars", "faiss", "mlflow", "optuna", "pyarrow"}, marks=pytest.mark.slow
        ),
    ],
)
def test_importing_costs_no_more_than_it_needs(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*{absent!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
