"""Rank and number of processes of a run, from the environment variables that torchrun or Ray set. Needs no torch."""

import os


def process_count() -> int:
    """Return the number of processes of the run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process, of rank 0, writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0
