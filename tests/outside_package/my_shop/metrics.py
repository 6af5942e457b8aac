"""A metric that cares less for the first places than mrr."""

from torch import Tensor


def root_rank(rank: Tensor) -> Tensor:
    """1 / sqrt(rank)."""
    return rank**-0.5
