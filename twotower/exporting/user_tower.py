"""Export the user tower as an ONNX graph.

Shapes: B histories, L history length of the longest, K event inputs, D embedding dim, H that of items in histories.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.exporting.onnx_file import write_graph
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.linear_recurrence import LinearRecurrence
from twotower.serving.user_tower import (
    TOWER_CODES,
    TOWER_COUNTS,
    TOWER_NEWEST,
    TOWER_NOW,
    TOWER_OBJECTIVE,
    TOWER_OUTPUT,
    TOWER_POINTER,
    TOWER_TEMPERATURE,
    TOWER_VECTORS,
)


def export_user_tower(model: TwoTower, path: Path, dim: int, max_length: int, num_inputs: int) -> None:
    """Write TwoTower.encode_newest as ONNX; for its inputs and output see serving.user_tower.

    The graph holds no items, so its size does not grow with the catalogue, and new items need no new tower. Dropout is
    off, whatever the model's mode; the model itself is not changed.

    Args:
        model: trained.
        path: of the file.
        dim: H.
        max_length: of histories; batches can have any size, histories any length from 1 on.
        num_inputs: K; with 0 the graph has no input for codes.

    Raises:
        ValueError: a GRU with other options than batch_first, one direction and biases.
    """
    event_inputs, user_tower = copy.deepcopy(model.event_inputs), copy.deepcopy(model.user_tower)
    residual = copy.deepcopy(model.residual)
    pointer = copy.deepcopy(model.pointer)
    objective = copy.deepcopy(model.objective)
    parts = event_inputs, user_tower, residual, model.normalize, None, pointer, objective, model.query_time
    towers = TwoTower(nn.Identity(), *parts)
    towers.served_dim = model.served_dim
    for module in list(towers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GRU):
                setattr(module, name, _OnnxGRU(child))
            if isinstance(child, LinearRecurrence):
                setattr(module, name, _OnnxLinearRecurrence(child, max_length))
    # The exporter takes a size of 1 in the example for a constant; with max_length 1 the length is one.
    length, batch = min(max_length, 4), torch.export.Dim("batch", min=1)
    sizes = {0: batch}
    if max_length > 1:
        sizes[1] = torch.export.Dim("length", min=1, max=max_length)
    arguments: tuple[Tensor, ...] = (torch.ones(3, length, dim), torch.zeros(3, dtype=torch.long))
    axes = {TOWER_VECTORS: sizes, TOWER_NEWEST: {0: batch}}
    if num_inputs:
        arguments += (torch.ones(3, length, num_inputs, dtype=torch.long),)
        axes[TOWER_CODES] = sizes
    outputs = [TOWER_OUTPUT]
    if pointer is not None:
        arguments += (torch.ones(3, length, dtype=torch.long),)
        axes[TOWER_COUNTS] = sizes
        outputs += [TOWER_POINTER, TOWER_TEMPERATURE]
    if objective is not None:
        arguments += (torch.ones(3, dtype=torch.long),)
        axes[TOWER_OBJECTIVE] = {0: batch}
    if model.query_time:
        arguments += (torch.ones(3, dtype=torch.long),)
        axes[TOWER_NOW] = {0: batch}
    write_graph(_VectorTower(towers, num_inputs > 0), arguments, axes, outputs, path)


class _VectorTower(nn.Module):
    """TwoTower.encode_newest with the inputs and outputs of serving.user_tower, without those that the model lacks."""

    temperature: Tensor

    def __init__(self, towers: TwoTower, has_inputs: bool) -> None:
        super().__init__()
        self.towers, self.has_inputs = towers, has_inputs
        if towers.pointer is not None:
            self.register_buffer("temperature", torch.tensor(float(towers.pointer.temperature)))

    def forward(self, item_vectors: Tensor, *rest: Tensor) -> Tensor | tuple[Tensor, ...]:
        newest, *others = rest
        codes = others.pop(0) if self.has_inputs else newest.new_zeros((*item_vectors.shape[:2], 0))
        count = others.pop(0) if self.towers.pointer is not None else None
        asked = others.pop(0) if self.towers.objective is not None else None
        user, pointer = self.towers.encode_newest(item_vectors, codes, newest, count, asked, *others)
        return user if pointer is None else (user, pointer, self.temperature * 1.0)


class _OnnxGRU(nn.Module):
    """A torch GRU as ONNX's GRU operator; torch's exporter would unroll it for one fixed length."""

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
    """A LinearRecurrence without complex numbers and loops, which torch's exporter does not support.

    A scan by doubling: after pass k, a state holds the newest 2^k inputs.
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
