"""Write torch modules as ONNX files."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


def write_graph(
    module: nn.Module,
    arguments: Sequence[Tensor],
    axes: Mapping[str, Mapping[int, torch.export.Dim]],
    outputs: Sequence[str],
    path: Path,
) -> None:
    """Write a module, in evaluation mode, as one ONNX file without paths of this machine.

    Args:
        module: its forward takes one tensor and, as *rest, the others.
        arguments: example inputs; the exporter takes a size of 1 for a constant.
        axes: each input's name and its dynamic dimensions, in the order of the arguments.
        outputs: names.
        path: of the file.
    """
    shapes = [dict(sizes) for sizes in axes.values()]
    with _quiet():
        program = torch.onnx.export(
            module.eval(), tuple(arguments), dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=(shapes[0], tuple(shapes[1:])), input_names=list(axes), output_names=list(outputs),
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:  # source lines and paths of the machine that exported
        node.ClearField("metadata_props")
    path.write_bytes(graph.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its internals; the parity gate checks its result."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
