"""What a training will take, said before its first step: parameters, memory, steps. What cannot fit is refused.

Shapes: V items, D embedding dim, P positions of a step, L history length of the longest, N negatives. Memory is in
bytes and a forecast, of the tensors alone: the interpreter and its libraries take about half a GiB more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from twotower.core.errors import UserError
from twotower.metrics.ranks import COMPARED_AT_ONCE, queries_at_once
from twotower.model.negatives import MixtureNegatives
from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.sharded_embedding import ShardedEmbedding
from twotower.training.module import TwoTowerModule

ADVICE = {
    "state": "optimizer=lazy_adamw (optimizer.row_wise=true), model.item_tower.hash_buckets, a smaller model.dim",
    "step": "a smaller positions_per_batch, model/loss=chunked_softmax, model/negatives=mixture",
    "evaluation": "a smaller model.dim or evaluation.positions_per_batch",
}
ADVICE["weights"] = ADVICE["gradients"] = ADVICE["state"]


class Size(NamedTuple):
    """What a training is made of."""

    items: int  # V
    dim: int  # D
    parameters: int
    lazy: int  # of these, in tables with sparse gradients
    moments: int  # numbers that the optimiser keeps of those
    positions: int  # P
    negatives: int  # N
    logits: int  # numbers held for them at one time
    activations: int  # bytes of the user tower, kept for the backward pass
    evaluated: int  # positions of a batch of validation
    averaged: bool  # an average of the weights is kept


class Forecast(NamedTuple):
    """Bytes at the worst time of each phase."""

    weights: int
    gradients: int  # kept between steps
    state: int  # of the optimiser and of the weights' average
    step: int  # item vectors, activations and logits of a training step
    evaluation: int  # item matrix, user vectors and scores
    bundle: int  # item vectors of the index at export

    def peak(self) -> int:
        """Of training and its validations."""
        return self.weights + self.gradients + self.state + max(self.step, self.evaluation)


def forecast(size: Size) -> Forecast:
    """Add it all up; 4 bytes a number."""
    dense = size.parameters - size.lazy
    used = 2 * size.positions + size.negatives  # by a step: histories, targets, negatives
    distinct = min(size.items + 1, used)
    matrix = size.items * size.dim
    scores = queries_at_once(size.items) * size.items + max(COMPARED_AT_ONCE, size.items)
    return Forecast(
        weights=4 * size.parameters,
        gradients=4 * (dense + (distinct * size.dim if size.lazy else 0)),
        state=4 * (2 * dense + size.moments + (size.parameters if size.averaged else 0)),
        # Vectors before and after their normalisation and those looked up from them, each with a gradient; activations
        # likewise.
        step=4 * (2 * (2 * distinct + used) * size.dim + size.logits) + 2 * size.activations,
        # The matrix is made from two others, and copied; a batch's vectors pass through the user tower.
        evaluation=4 * (4 * matrix + 16 * size.evaluated * size.dim + scores),
        bundle=4 * matrix,
    )


def size_of(
    module: TwoTowerModule, loss: Mapping[str, Any], positions: int, length: int, evaluated: int, averaged: bool
) -> Size:
    """Measure a module that has not trained yet.

    Args:
        module: on the CPU.
        loss: its settings.
        positions: P, of one process, padding included.
        length: L.
        evaluated: positions of a batch of validation, padding included.
        averaged: whether an average of the weights is kept.
    """
    module.setup("fit")
    optimizer, _ = module.optimization
    items = int(module.model.item_tower.num_items)  # type: ignore[arg-type]
    dim = int(module.model.item_tower.embedding.embedding_dim)  # type: ignore[union-attr, arg-type]
    tables = [m for m in module.model.modules() if isinstance(m, nn.Embedding | ShardedEmbedding) and m.sparse]
    lazy = sum(t.weight.numel() for t in tables)
    row_wise = isinstance(optimizer, LazyAdamW) and optimizer.row_wise
    second = sum(len(t.weight) for t in tables) if row_wise else lazy
    sampler, negatives = module.negatives, items
    if isinstance(sampler, MixtureNegatives):
        drawn = sampler.uniform + sampler.popularity + len(sampler.kept) + positions * sampler.in_batch
        negatives = items if sampler.uniform >= items else min(items, drawn)
    chunk = min(negatives, loss.get("chunk_items") or negatives)
    copies = 1 if loss["_target_"].endswith(".softmax") else 4  # softmax works in place; autograd keeps more
    logits = copies * positions * chunk * (1 + len(module.matryoshka))
    if "buckets" in loss:
        logits = copies * loss["buckets"] * loss["bucket_positions"] * loss["bucket_items"]
    return Size(
        items=items,
        dim=dim,
        parameters=sum(p.numel() for p in module.parameters()),
        lazy=lazy,
        moments=lazy + second,
        positions=positions,
        negatives=negatives,
        logits=logits,
        activations=positions * activations(module, length, dim),
        evaluated=evaluated,
        averaged=averaged,
    )


def activations(module: TwoTowerModule, length: int, dim: int) -> int:
    """Bytes that the user tower keeps of a position for the backward pass, counted on a few rows of full length."""
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
        output = module.model.encode_history(vectors, codes)
    del output
    return sum(kept.values()) // (rows * length)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had there; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = []
    if (file := Path("/proc/meminfo")).is_file():
        lines = dict(line.split(":") for line in file.read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")  # of a container
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts["inactive_file"])
        known.append(int(limit) - used)
    return min(known, default=None)


def require_room(found: Forecast, free: int | None, weights_are_there: bool) -> None:
    """Raise UserError where a training cannot fit into `free` bytes; the weights may be in memory already."""
    needed = found.peak() - (found.weights if weights_are_there else 0)
    if free is None or needed <= free:
        return
    parts = found._asdict()
    del parts["bundle"], parts["evaluation" if found.step > found.evaluation else "step"]
    largest = max(parts, key=lambda name: parts[name])
    sizes = ", ".join(f"{name} {readable(part)}" for name, part in parts.items())
    raise UserError(
        f"training would take about {readable(needed)}, and {readable(free)} are free ({sizes}). What makes it fit: "
        f"{ADVICE[largest]}"
    )


def describe(size: Size, found: Forecast, batches: int, epochs: int | None, free: int | None) -> str:
    """The table."""
    parts = ", ".join(f"{name} {readable(part)}" for name, part in found._asdict().items() if name != "bundle")
    rows = [
        ("parameters", f"{size.parameters:,} ({size.items:,} items, {size.dim} dimensions)"),
        ("training", f"{readable(found.peak())}: {parts}"),
        ("free memory", "unknown" if free is None else readable(free)),
        ("index", readable(found.bundle)),
        ("steps", f"{batches:,} an epoch" + (f", {batches * epochs:,} in {epochs} epochs" if epochs else "")),
    ]
    return "\n".join(f"  {name:<12}{text}" for name, text in rows)


def readable(size: int) -> str:
    """Bytes for a person."""
    return f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
