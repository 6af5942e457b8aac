"""The user tower as an ONNX graph, and its distance from the torch original.

Shapes: B histories, L history length, D embedding dim.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from twotower.batch import build_history
from twotower.model.two_tower import TwoTower
from twotower.serving.bundle import TOWER_INPUT, TOWER_OUTPUT, open_session


def export_user_tower(model: TwoTower, path: Path, max_length: int) -> None:
    """Write TwoTower.forward as ONNX: histories [batch, length] -> user vectors [batch, D].

    Batch is at least 1, length between 1 and `max_length`. The item table is part of the graph, so the file
    has 4 * (V + 1) * D bytes and more; a protobuf ends at 2 GB. Dropout is off, whatever the model's mode.
    """
    model = copy.deepcopy(model).eval()  # the caller's model keeps its layers and its mode
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GRU):
                setattr(module, name, _OnnxGRU(child))
    # An example of size 1 would be taken for a constant. With max_length 1 the length is one.
    example = torch.ones(3, min(max_length, 4), dtype=torch.long)
    sizes = {0: torch.export.Dim("batch", min=1)}
    if max_length > 1:
        sizes[1] = torch.export.Dim("length", min=1, max=max_length)
    with _quiet():
        program = torch.onnx.export(
            model, (example,), dynamo=True, verbose=False, external_data=False, dynamic_shapes=(sizes,),
            input_names=[TOWER_INPUT], output_names=[TOWER_OUTPUT],
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:  # source lines and paths of the machine that exported
        node.ClearField("metadata_props")
    path.write_bytes(graph.SerializeToString())


class _OnnxGRU(nn.Module):
    """A torch GRU as ONNX's own operator; torch's exporter would unroll it for one fixed length."""

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        if not gru.batch_first or gru.bidirectional or not gru.bias:
            raise ValueError("only a batch-first GRU of one direction, with biases, can be exported")
        self.layers, self.hidden_size = gru.num_layers, gru.hidden_size

        def gates(name: str) -> Tensor:
            reset, update, new = getattr(gru, name).detach().chunk(3)
            return torch.cat([update, reset, new])  # ONNX's order

        for i in range(gru.num_layers):
            self.register_buffer(f"input_{i}", gates(f"weight_ih_l{i}")[None])
            self.register_buffer(f"state_{i}", gates(f"weight_hh_l{i}")[None])
            self.register_buffer(f"bias_{i}", torch.cat([gates(f"bias_ih_l{i}"), gates(f"bias_hh_l{i}")])[None])

    def forward(self, vectors: Tensor) -> tuple[Tensor, None]:
        """[B, L, D] -> states [B, L, D]; in ONNX the length comes first, and a direction after it."""
        states = vectors.transpose(0, 1)
        for i in range(self.layers):
            states = torch.onnx.ops.symbolic(
                "GRU",
                (
                    states,
                    getattr(self, f"input_{i}"),
                    getattr(self, f"state_{i}"),
                    getattr(self, f"bias_{i}"),
                ),
                # torch applies the reset gate after the matrix product
                attrs={"hidden_size": self.hidden_size, "linear_before_reset": 1},
                dtype=states.dtype,
                shape=(states.shape[0], 1, states.shape[1], self.hidden_size),
            ).squeeze(1)
        return states.transpose(0, 1), None


def encode_users(model: TwoTower, histories: Sequence[Sequence[int]], max_length: int) -> npt.NDArray[np.float32]:
    """[B, D] the torch tower's vectors after histories of item_index, none of them empty."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        vectors: npt.NDArray[np.float32] = model(torch.from_numpy(_pad(histories, max_length))).numpy()
    model.train(was_training)
    return vectors


def tower_difference(
    model: TwoTower, path: Path, histories: Sequence[Sequence[int]], num_items: int, max_length: int
) -> float:
    """The largest difference between a component of the ONNX file's vectors and of the torch tower's.

    Tried on `histories` in one batch and one by one, and on random ones of each size: a single item, the full
    length, batches of one length and of many.
    """
    random = np.random.default_rng(0)
    lengths = [
        [1],
        [max_length],
        [1, 1],
        [max_length] * 3,
        [1, max_length],
        [*range(1, min(max_length, 64) + 1)],
    ]
    made = [[random.integers(1, num_items + 1, n).tolist() for n in row] for row in lengths]
    session = open_session(path)
    difference = 0.0
    for batch in [histories, *([history] for history in histories), *made]:
        (vectors,) = session.run([TOWER_OUTPUT], {TOWER_INPUT: _pad(batch, max_length)})
        gap = np.abs(vectors - encode_users(model, batch, max_length)).max()
        difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
    return difference


def _pad(histories: Sequence[Sequence[int]], max_length: int) -> npt.NDArray[np.int64]:
    length = np.array([len(history) for history in histories])
    return build_history(np.concatenate([np.array(h) for h in histories]), np.cumsum(length), length, max_length)


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
