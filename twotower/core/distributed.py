"""Which of the processes of one run this is, from what torchrun (or Ray) puts into the environment. Needs no torch."""

import os


def process_count() -> int:
    """Number of processes of the run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0
