"""How much memory a benchmark's process has held; the standard library alone, for the interpreters of peers."""

import resource
import sys


def peak_bytes(device: str = "cpu") -> int:
    """The most memory that this process has held, or that torch has on a GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
