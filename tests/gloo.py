"""A function on two processes that talk through gloo."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 60


def on_two_processes(task: Callable[[int, int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `task(rank, world)` comes to on each; it is a function of a module."""
    context = torch.multiprocessing.spawn(_process, (2, task, str(folder)), nprocs=2, join=False)
    deadline = time.monotonic() + SECONDS
    while not context.join(timeout=1):
        assert time.monotonic() < deadline, "the processes wait for each other"
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _process(rank: int, world: int, task: Callable[[int, int], dict[str, Any]], folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=SECONDS))
    torch.save(task(rank, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
