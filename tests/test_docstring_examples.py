"""Every example in a docstring runs and gives what it shows; public classes and losses of the model room have one."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "twotower").rglob("*.py"))
WITH_EXAMPLES = [file for file in FILES if ">>> " in file.read_text(encoding="utf-8")]
ROOMS = ("model", "metrics", "training/callbacks")
INTERNAL = {"Logits", "Negatives", "Queries", "SparseTables", "Attention", "DistanceBias", "TimeBias", "SwiGLU", "GELU"}
INTERNAL |= {"LinearRecurrence"}  # parts of the classes beside them, whose examples show them


def path_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # MLflow of pyfunc_model
@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=path_of)
def test_examples_give_what_they_show(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(path_of(file).removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    "file", [f for f in FILES if path_of(f).removeprefix("twotower/").startswith(ROOMS)], ids=path_of
)
def test_public_classes_and_losses_have_an_example(file: Path) -> None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        is_loss = isinstance(node, ast.FunctionDef) and file.parent.name == "losses" and node.name != "log_sum_exp"
        if (isinstance(node, ast.ClassDef) or is_loss) and not node.name.startswith("_") and node.name not in INTERNAL:
            assert ">>> " in (ast.get_docstring(node) or ""), node.name
