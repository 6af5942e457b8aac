"""What each of several processes gets, in one process."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

T = TypeVar("T")


def of_each_rank(monkeypatch: pytest.MonkeyPatch, world: int, load: Callable[[], T]) -> list[T]:
    """Call `load` as each rank of `world` processes."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
    results = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        results.append(load())
    return results
