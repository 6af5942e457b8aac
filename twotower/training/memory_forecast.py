"""Forecast of parameters, memory and steps before the first step; a training that cannot fit is refused.

Shapes: V items, D embedding dim, P positions of a step, L length of the longest history, N negatives. Memory is in
bytes, of tensors alone: the interpreter and its libraries take about half a GiB more.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from twotower.core.errors import UserError
from twotower.metrics.ranks import TILE
from twotower.model.memory_costs import peak_logits, sparse_tables
from twotower.model.pointer import history_scores
from twotower.training.module import TwoTowerModule

ADVICE = {
    "state": "optimizer=lazy_adamw (optimizer.row_wise=true), model.item_tower.hash_buckets, a smaller model.dim",
    "step": "a smaller positions_per_batch, model/loss=chunked_softmax, model/negatives=mixture",
    "evaluation": "a smaller model.dim or evaluation.positions_per_batch",
}
ADVICE["weights"] = ADVICE["gradients"] = ADVICE["state"]


class Size(NamedTuple):
    """Size of a training."""

    items: int  # V
    dim: int  # D
    parameters: int
    sparse: int  # of these, in tables with sparse gradients
    sparse_state: int  # numbers of the optimiser's state for those tables
    positions: int  # P
    negatives: int  # N
    logits: int  # numbers held for them at one time
    activations: int  # bytes of the user tower, kept for the backward pass
    evaluated: int  # positions of a validation batch
    averaged: bool  # an average of the weights is kept


class Forecast(NamedTuple):
    """Peak memory of each part, in bytes.

    >>> part = Forecast(weights=10, gradients=10, state=20, step=5, evaluation=7, bundle=9)
    >>> part.peak()
    47
    """

    weights: int
    gradients: int  # kept between steps
    state: int  # of the optimiser and of the weights' average
    step: int  # item vectors, activations and logits of a training step
    evaluation: int  # item matrix, user vectors and scores
    bundle: int  # item vectors of the index at export

    def peak(self) -> int:
        """Peak of training and its validations."""
        return self.weights + self.gradients + self.state + max(self.step, self.evaluation)


def forecast(size: Size) -> Forecast:
    """Forecast the memory of a training, at 4 bytes a number."""
    dense = size.parameters - size.sparse
    used = 2 * size.positions + size.negatives  # by a step: histories, targets, negatives
    distinct = min(size.items + 1, used)
    matrix = size.items * size.dim
    return Forecast(
        weights=4 * size.parameters,
        gradients=4 * (dense + (distinct * size.dim if size.sparse else 0)),
        state=4 * (2 * dense + size.sparse_state + (size.parameters if size.averaged else 0)),
        # Vectors before and after their normalisation and those looked up from them, each with a gradient; activations
        # likewise.
        step=4 * (2 * (2 * distinct + used) * size.dim + size.logits) + 2 * size.activations,
        # The matrix is made from two others; a batch's vectors pass through the user tower; a tile of scores has flags.
        evaluation=4 * (3 * matrix + 16 * size.evaluated * size.dim + 2 * TILE),
        bundle=4 * matrix,
    )


def size_of(module: TwoTowerModule, dim: int, positions: int, length: int, evaluated: int, averaged: bool) -> Size:
    """Measure a module before training.

    Losses and optimisers declare their memory (see model.memory_costs), samplers have `max_negatives(positions)`; one
    without is taken for all items. The user tower's activations are measured.

    Args:
        module: on the CPU.
        dim: D.
        positions: P, of one process, padding included.
        length: L.
        evaluated: positions of a validation batch, padding included.
        averaged: whether an average of the weights is kept.
    """
    items = int(module.model.item_tower.num_items)  # type: ignore[arg-type] # an attribute of every item tower
    sampler: Any = module.negatives
    negatives = sampler.max_negatives(positions) if hasattr(sampler, "max_negatives") else items
    tables = sparse_tables(module.optimizer, module.model)
    return Size(
        items=items,
        dim=dim,
        parameters=sum(p.numel() for p in module.parameters()),
        sparse=tables.parameters,
        sparse_state=tables.state,
        positions=positions,
        negatives=negatives,
        logits=peak_logits(module.loss, positions, negatives) * (1 + len(module.matryoshka)),
        activations=positions * activations(module, length, dim),
        evaluated=evaluated,
        averaged=averaged,
    )


def activations(module: TwoTowerModule, length: int, dim: int) -> int:
    """Measure what user tower and pointer keep of a position for the backward pass, in bytes, on a few full rows."""
    rows = 8
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    vectors = torch.randn(rows, length, dim, generator=torch.Generator(), requires_grad=True)
    codes = torch.zeros(rows, length, len(module.model.event_inputs.names), dtype=torch.long)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        items = codes.new_ones(rows, length)
        now = items if module.model.query_time else None
        users, pointer = module.model.encode_positions(vectors, codes, items, now=now)
        graph: list[Any] = [users, pointer]  # kept until all is counted
        if pointer is not None:
            history = history_scores(users, vectors, pointer, items, items, items > 0, 1.0, items[0, :1])
            graph += [history.target_bonus(), history.others()]
    del graph
    return sum(kept.values()) // (rows * length)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device, within the limit of a container; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = []
    if (file := Path("/proc/meminfo")).is_file():
        lines = dict(line.split(":") for line in file.read_text().splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")  # limits of a container
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts["inactive_file"])
        limits.append(int(limit) - used)
    return min(limits, default=None)


def require_room(needs: Forecast, free: int | None, weights_are_there: bool) -> None:
    """Raise UserError if a training does not fit into `free` bytes, of which the weights may be in use already."""
    total = needs.peak() - (needs.weights if weights_are_there else 0)
    if free is None or total <= free:
        return
    parts = needs._asdict()
    del parts["bundle"], parts["evaluation" if needs.step > needs.evaluation else "step"]
    largest = max(parts, key=lambda name: parts[name])
    sizes = ", ".join(f"{name} {readable(part)}" for name, part in parts.items())
    raise UserError(
        f"training needs about {readable(total)} of memory, and {readable(free)} are free ({sizes}). To make it fit: "
        f"{ADVICE[largest]}"
    )


def describe(size: Size, needs: Forecast, batches: int, epochs: int | None, free: int | None) -> str:
    """Format the forecast as a table."""
    parts = ", ".join(f"{name} {readable(part)}" for name, part in needs._asdict().items() if name != "bundle")
    rows = [
        ("parameters", f"{size.parameters:,} ({size.items:,} items, {size.dim} dimensions)"),
        ("training", f"{readable(needs.peak())}: {parts}"),
        ("free memory", "unknown" if free is None else readable(free)),
        ("index", readable(needs.bundle)),
        ("steps", f"{batches:,} an epoch" + (f", {batches * epochs:,} in {epochs} epochs" if epochs else "")),
    ]
    return "\n".join(f"  {name:<12}{text}" for name, text in rows)


def readable(size: int) -> str:
    """Format bytes as MiB or GiB."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
