"""What several processes of one training know together; with one process, all of it is free.

Each must call these functions in the same order.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """[n, ...] of each process, n being its own -> [sum of n, ...] of all, by rank; no gradient passes."""
    world = world_size()
    if world == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = torch.cat(counts).tolist()
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])  # all_gather wants the same shape of everybody
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def sum_over_processes(values: Tensor) -> Tensor:
    """The elementwise sum of every process's `values`; no gradient passes."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total
