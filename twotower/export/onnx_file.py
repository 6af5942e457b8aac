"""torch modules as ONNX files."""

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
    """Write a module, in evaluation, as one ONNX file that says nothing of the machine that made it.

    Args:
        module: its forward takes one tensor and, as *rest, the others.
        arguments: an example. A size of 1 would be taken for a constant.
        axes: each input's name and the dimensions of it that may have any size; in the order of the arguments.
        outputs: names.
        path: where to.
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
    """Keep the exporter's remarks on its own internals from the user; its result is checked by numbers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
