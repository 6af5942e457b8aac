"""`twotower` commands in processes of their own that are forked with all heavy imports done.

A new interpreter spends most of a small command's time on importing torch, Lightning and MLflow; a fork of a server
that has imported them starts at once, and is killed, signalled and waited for like any other process.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [  # nothing here starts a thread
    "twotower.commands.train",
    "twotower.commands.evaluate",
    "twotower.commands.export",
    "twotower.commands.api",
    "twotower.commands.retrain",
    "twotower.training.pipeline",
    "twotower.data.readers.events",
    "twotower.serving.updates.delta",
    *("faiss", "matplotlib.pyplot", "mlflow.pyfunc", "onnxruntime.quantization", "sklearn.manifold"),
    *("torch.onnx._internal.exporter._core", "torch._inductor.decomposition"),
    *("onnxscript.rewriter", "onnxscript.function_libs.torch_lib.ops"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor", "git"),
    *("torch._functorch.aot_autograd", "networkx", "pyarrow.dataset", "matplotlib.backends.backend_svg"),
]


def start(
    words: Sequence[str], folder: Path, output: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `twotower WORDS` in `folder`; standard output and error are appended to the file `output`."""
    return start_function(_command, [*words], folder=folder, output=output, environment=environment)


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, limit_s: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run `twotower WORDS` in `folder` to its end; it is killed after `limit_s` seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        output, error = Path(scratch) / "output", Path(scratch) / "error"
        process = start_function(_command, [*words], folder=folder, output=output, error=error, environment=environment)
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*words], limit_s, output.read_text(), error.read_text())
        return subprocess.CompletedProcess([*words], process.exitcode, output.read_text(), error.read_text())


def start_function(
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    output: Path,
    error: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start a function of a module; what it returns is the exit status, 1 after an exception."""
    files = [output, error or output]
    process = _server().Process(
        target=_entered, args=(function, arguments, folder, files, dict(environment or os.environ))
    )
    process.start()
    return process


@cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _command(words: list[str]) -> int:
    from twotower.commands.main import main

    sys.argv = ["twotower", *words]
    return main(words)


def _entered(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    folder: Path,
    files: Sequence[Path],
    environment: dict[str, str],
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    with _reported():
        status = function(*arguments)
    sys.exit(status)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Write a traceback where a new interpreter would."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
