"""Compute a request in parts by several threads, without the pools of FAISS and ONNX Runtime.

Their threads do not survive a fork: a server that forks its workers after a first answer would wait for them forever.
Both leave Python's lock while they compute, so threads of Python do the same, and end with the call.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")


def in_parts(function: Callable[[slice], Part], size: int, step: int, threads: int) -> list[Part]:
    """Return function(part) for consecutive parts of range(size), at most `step` long, as many as threads if possible.

    >>> in_parts(lambda part: "abcde"[part], 5, step=5, threads=2)
    ['abc', 'de']
    """
    step = max(1, min(step, -(-size // threads)))
    parts = [slice(start, start + step) for start in range(0, size, step)]
    if threads == 1 or len(parts) == 1:
        return [*map(function, parts)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, parts))
