"""The user tower as an ONNX graph, and its distance from the torch original.

Shapes: B histories, L history length of the longest, K event inputs, V items, D embedding dim.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.inputs import TIME
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.linear_recurrence import LinearRecurrence
from twotower.run import History
from twotower.serving.bundle import TOWER_CODES, TOWER_INPUT, TOWER_OUTPUT, open_session, tower_feed


def export_user_tower(model: TwoTower, path: Path, max_length: int, num_inputs: int) -> None:
    """Write TwoTower.forward as ONNX: histories [batch, length], codes [batch, length, K] -> user vectors [batch, D].

    Batch is at least 1, length between 1 and `max_length`; without event inputs (K = `num_inputs` = 0) the graph has
    no codes either. The item tower is not in it, only its vectors: a constant table of 4 * (V + 1) * D bytes; a
    protobuf ends at 2 GB. Dropout is off, whatever the model's mode.
    """
    # Copies, so that the caller's model keeps its layers and its mode.
    event_inputs, user_tower = copy.deepcopy(model.event_inputs), copy.deepcopy(model.user_tower)
    residual = copy.deepcopy(model.residual)
    towers = TwoTower(_ItemTable(model), event_inputs, user_tower, residual, model.normalize)
    towers.served_dim = model.served_dim
    for module in list(towers.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GRU):
                setattr(module, name, _OnnxGRU(child))
            if isinstance(child, LinearRecurrence):
                setattr(module, name, _OnnxLinearRecurrence(child, max_length))
    # An example of size 1 would be taken for a constant. With max_length 1 the length is one.
    example = torch.ones(3, min(max_length, 4), dtype=torch.long)
    sizes = {0: torch.export.Dim("batch", min=1)}
    if max_length > 1:
        sizes[1] = torch.export.Dim("length", min=1, max=max_length)
    arguments: tuple[Tensor, ...] = (example,)
    if num_inputs:
        arguments = (example, example[:, :, None].expand(-1, -1, num_inputs).contiguous())
    graph_model = towers if num_inputs else _WithoutInputs(towers)
    with _quiet():
        program = torch.onnx.export(
            graph_model.eval(), arguments, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=(sizes,) * len(arguments),
            input_names=[TOWER_INPUT, TOWER_CODES][: len(arguments)], output_names=[TOWER_OUTPUT],
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:  # source lines and paths of the machine that exported
        node.ClearField("metadata_props")
    path.write_bytes(graph.SerializeToString())


class _ItemTable(nn.Module):
    """The items' vectors in histories, in their tower's place: [...] item_index -> [..., D]; PAD is the zero vector."""

    vectors: Tensor

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        with _evaluating(model):
            self.register_buffer("vectors", F.pad(model.encode_history_items(), (0, 0, 1, 0)))

    def forward(self, item_index: Tensor) -> Tensor:
        return F.embedding(item_index, self.vectors)


class _WithoutInputs(nn.Module):
    """A TwoTower without event inputs, as a function of the items alone."""

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, item_index: Tensor) -> Tensor:
        vectors: Tensor = self.towers(item_index, item_index.new_zeros((*item_index.shape, 0)))
        return vectors


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


def item_vectors(model: TwoTower) -> Tensor:
    """[V, D] the torch model's item vectors, without dropout; its mode stays."""
    with _evaluating(model):
        return model.encode_items()


def encode_users(model: TwoTower, histories: Sequence[History], max_length: int) -> npt.NDArray[np.float32]:
    """[B, D] the torch model's vectors after histories, none of them empty."""
    feed = _feed(histories, max_length)
    item_index = torch.from_numpy(feed[TOWER_INPUT])
    codes = torch.from_numpy(feed[TOWER_CODES]) if TOWER_CODES in feed else item_index.new_zeros((*item_index.shape, 0))
    with _evaluating(model):
        vectors: npt.NDArray[np.float32] = model(item_index, codes).numpy()
    return vectors


def tower_difference(
    model: TwoTower,
    path: Path,
    histories: Sequence[History],
    num_items: int,
    input_sizes: Mapping[str, int],
    max_length: int,
) -> float:
    """The largest difference between a component of the ONNX file's vectors and of the torch model's.

    Tried on `histories` in one batch and one by one, and on random ones of each size: a single item, the full
    length, batches of one length and of many. Their codes are from the whole range of each event input.
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
        [History(random.integers(1, num_items + 1, n), _random_codes(random, n, input_sizes)) for n in row]
        for row in lengths
    ]
    session = open_session(path)
    difference = 0.0
    for batch in [list(histories), *([history] for history in histories), *made]:
        (vectors,) = session.run([TOWER_OUTPUT], _feed(batch, max_length))
        gap = np.abs(vectors - encode_users(model, batch, max_length)).max()
        difference = max(difference, float(gap) if np.isfinite(gap) else float("inf"))
    return difference


def _random_codes(random: np.random.Generator, length: int, sizes: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """[length, K] codes of a history; its newest event comes seconds, days or years after the others."""
    codes = random.integers(0, list(sizes.values()), (length, len(sizes)))
    if TIME in sizes:
        codes[:, list(sizes).index(TIME)] = 2**28 - np.sort(np.exp2(random.uniform(0, 27, length)))[::-1]
    return codes


def _feed(histories: Sequence[History], max_length: int) -> dict[str, npt.NDArray[np.int64]]:
    length = np.array([len(history.item_index) for history in histories])
    item_index, codes = map(np.concatenate, zip(*histories, strict=True))
    return tower_feed(item_index, codes, np.cumsum(length), length, max_length)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and dropout; then the model is in its old mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


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
