"""What the processes that torchrun started agree on before, between and after training; one alone agrees at once."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from twotower.core.distributed import is_first_process, process_count

Thing = TypeVar("Thing")
PATIENCE = timedelta(days=2)  # others wait while the first prepares data


@contextmanager
def together() -> Iterator[None]:
    """Join the others."""
    if process_count() == 1 or dist.is_initialized():  # by who started them
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def in_turn(task: Callable[[], Thing]) -> Thing:
    """Let the first process do it, then the others, who find it done."""
    done: list[Thing] = []
    first(lambda: done.append(task()))
    return done[0] if done else task()


def first(task: Callable[[], Thing]) -> Thing:
    """Let the first process do it; all get what it returns. Where it fails the others leave, and it alone says why."""
    if process_count() == 1:
        return task()
    answer: list[Any] = [False, None]
    try:
        if is_first_process():
            answer = [True, task()]
    finally:
        dist.broadcast_object_list(answer, device=torch.device("cpu"))
    done, result = answer
    if not done:
        sys.exit(2)
    return cast(Thing, result)


def say(text: str) -> None:
    """Once, however many processes there are."""
    if is_first_process():
        print(text)
