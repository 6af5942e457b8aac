"""Coordination of the processes that torchrun started, outside of training itself; with one process, nothing to do."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from twotower.core.distributed import is_first_process, process_count

Result = TypeVar("Result")
TIMEOUT = timedelta(days=2)  # the other processes wait while the first prepares data


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group of torch.distributed, unless there is one process or the launcher has joined it."""
    if process_count() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def first_process_first(task: Callable[[], Result]) -> Result:
    """Call `task` in the first process, then in the others, which find its files."""
    results: list[Result] = []
    on_first_process(lambda: results.append(task()))
    return results[0] if results else task()


def on_first_process(task: Callable[[], Result]) -> Result:
    """Call `task` in the first process and return its result in all of them.

    Where it raises, the others exit with status 2, so that the first alone reports the error.
    """
    if process_count() == 1:
        return task()
    message: list[Any] = [False, None]  # succeeded, result
    try:
        if is_first_process():
            message = [True, task()]
    finally:
        dist.broadcast_object_list(message, device=torch.device("cpu"))
    succeeded, result = message
    if not succeeded:
        sys.exit(2)
    return cast(Result, result)


def print_once(text: str) -> None:
    """Print `text` in the first process."""
    if is_first_process():
        print(text)
