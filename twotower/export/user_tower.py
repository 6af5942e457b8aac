"""The user tower as an ONNX graph, and its distance from the torch original.

Shapes: B histories, L history length of the longest, K event inputs, V items, D embedding dim, H that of items in
histories.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.event_codes import TIME
from twotower.export.onnx_file import write_graph
from twotower.export.vectors import encode_users, joined
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.linear_recurrence import LinearRecurrence
from twotower.runs.histories import History
from twotower.serving.user_tower import (
    TOWER_CODES,
    TOWER_NEWEST,
    TOWER_OUTPUT,
    TOWER_VECTORS,
    encode_histories,
    open_session,
)

Floats = npt.NDArray[np.float32]


def export_user_tower(model: TwoTower, path: Path, dim: int, max_length: int, num_inputs: int) -> None:
    """Write TwoTower.encode_newest as ONNX; what goes in and out, see twotower.serving.user_tower.

    Vectors in histories are [H] = `dim`. Batch is at least 1, length between 1 and `max_length`; without event inputs
    (K = `num_inputs` = 0) the graph has no codes either. It holds no items, so its size does not grow with the
    catalogue, and new items need no new tower.
    Dropout is off, whatever the model's mode.
    """
    # Copies, so that the caller's model keeps its layers and its mode.
    event_inputs, user_tower = copy.deepcopy(model.event_inputs), copy.deepcopy(model.user_tower)
    residual = copy.deepcopy(model.residual)
    towers = TwoTower(nn.Identity(), event_inputs, user_tower, residual, model.normalize)
    towers.served_dim = model.served_dim
    for module in list(towers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GRU):
                setattr(module, name, _OnnxGRU(child))
            if isinstance(child, LinearRecurrence):
                setattr(module, name, _OnnxLinearRecurrence(child, max_length))
    # An example of size 1 would be taken for a constant. With max_length 1 the length is one.
    length, batch = min(max_length, 4), torch.export.Dim("batch", min=1)
    sizes = {0: batch}
    if max_length > 1:
        sizes[1] = torch.export.Dim("length", min=1, max=max_length)
    arguments: tuple[Tensor, ...] = (torch.ones(3, length, dim), torch.zeros(3, dtype=torch.long))
    axes = {TOWER_VECTORS: sizes, TOWER_NEWEST: {0: batch}}
    if num_inputs:
        arguments += (torch.ones(3, length, num_inputs, dtype=torch.long),)
        axes[TOWER_CODES] = sizes
    write_graph(_OfVectors(towers), arguments, axes, [TOWER_OUTPUT], path)


class _OfVectors(nn.Module):
    """TwoTower.encode_newest, with no codes where there are no event inputs."""

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, item_vectors: Tensor, *rest: Tensor) -> Tensor:
        newest, *inputs = rest
        codes = inputs[0] if inputs else newest.new_zeros((*item_vectors.shape[:2], 0))
        return self.towers.encode_newest(item_vectors, codes, newest)


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


class _OnnxLinearRecurrence(nn.Module):
    """A LinearRecurrence without complex numbers and loops, which torch's exporter does not take.

    Its passes double what the states have seen: after the k-th, a state holds the newest 2^k inputs.
    """

    scale: Tensor  # [D]
    real: Tensor  # [passes, D] the factor to the power of 2^k
    imaginary: Tensor

    def __init__(self, recurrence: LinearRecurrence, max_length: int) -> None:
        super().__init__()
        self.input, self.output = recurrence.input, recurrence.output
        self.steps = [2**k for k in range((max_length - 1).bit_length())]
        decay, angle = recurrence.decay.detach().exp(), recurrence.angle.detach().exp()
        power = torch.tensor([*self.steps, 0])[:, None]  # one more, so that there is one
        self.register_buffer("scale", recurrence.scale().detach())
        self.register_buffer("real", (-decay * power).exp() * (angle * power).cos())
        self.register_buffer("imaginary", (-decay * power).exp() * (angle * power).sin())

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        real, imaginary = (part * self.scale for part in self.input(hidden).unflatten(-1, (-1, 2)).unbind(-1))
        for k, step in enumerate(self.steps):
            a, b = self.real[k], self.imaginary[k]
            c, d = (F.pad(part, (0, 0, step, 0))[:, : part.shape[1]] for part in (real, imaginary))  # `step` before
            real, imaginary = real + a * c - b * d, imaginary + a * d + b * c
        vectors: Tensor = self.output(torch.stack([real, imaginary], dim=-1).flatten(-2))
        return vectors


def tower_difference(
    model: TwoTower,
    path: Path,
    histories: Sequence[History],
    table: Floats,
    input_sizes: Mapping[str, int],
    max_length: int,
) -> float:
    """The largest difference between a component of the ONNX file's vectors and of the torch model's.

    Tried on `histories` in one batch and one by one, and on random ones of each size: a single item, the full
    length, batches of one length and of many. Their codes are from the whole range of each event input.
    `table` is [V, H], the items' vectors in histories.
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
    made = [
        [History(random.integers(1, len(table) + 1, n), _random_codes(random, n, input_sizes)) for n in row]
        for row in lengths
    ]
    session = open_session(path)
    difference = 0.0
    for batch in [list(histories), *([history] for history in histories), *made]:
        vectors = encode_histories(session, table, joined(batch), max_length)
        gap = np.abs(vectors - encode_users(model, batch, max_length)).max()
        difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
    return difference


def _random_codes(random: np.random.Generator, length: int, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """[length, K] codes of a history; its newest event comes seconds, days or years after the others."""
    codes = random.integers(0, list(sizes.values()), (length, len(sizes)))
    if TIME in sizes:
        codes[:, list(sizes).index(TIME)] = 2**28 - np.sort(np.exp2(random.uniform(0, 27, length)))[::-1]
    return codes
