"""A function on two processes that communicate through gloo; all tests share them, as their start takes seconds."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from functools import cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 240  # until processes that wait for each other are given up; the first start of two takes long where many run


def on_two_processes(task: Callable[..., dict[str, Any]], folder: Path, *arguments: Any) -> list[dict[str, Any]]:
    """What `task(rank, world, *arguments)` returns on each; it is a function of a module."""
    store = folder / f"{task.__name__}-store"
    jobs = [_processes().submit(_process, rank, 2, store, task, *arguments) for rank in range(2)]
    return [torch.load(BytesIO(job.result(timeout=SECONDS))) for job in jobs]


@cache
def _processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def _process(rank: int, world: int, file: Path, task: Callable[..., dict[str, Any]], *arguments: Any) -> bytes:
    torch.set_num_threads(1)
    store = dist.FileStore(str(file), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=SECONDS))
    try:
        result = BytesIO()
        torch.save(task(rank, world, *arguments), result)
        return result.getvalue()  # tensors themselves would go through shared memory
    finally:
        dist.destroy_process_group()
