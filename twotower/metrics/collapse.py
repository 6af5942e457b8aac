"""Signs that a model is falling apart, seen from a sample of queries.

Shapes: Q queries, K places of a list, V items, D embedding dim.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_RANK, HIGHEST_COSINE, HIGHEST_OVERLAP = 0.1, 0.9, 0.8  # the rank as a share of D


def signs_of(items: Tensor, user: Tensor, top: Tensor, counts: Tensor) -> dict[str, float]:
    """All signs, by name.

    Args:
        items: [V, D].
        user: [Q, D].
        top: [Q, K] item_index.
        counts: [V + 1] training events by item_index.
    """
    listed = torch.bincount(top.flatten(), minlength=len(counts))[1:]
    popular = counts[1:].topk(top.shape[1]).indices
    return {
        "effective_rank": effective_rank(items),
        "user_cosine": mean_cosine(user),
        "list_overlap": mean_overlap(listed, len(top)),
        "top_1_percent_share": share(listed, listed.topk(max(1, round(len(listed) / 100))).indices),
        "most_popular_share": share(listed, popular),
    }


def effective_rank(vectors: Tensor) -> float:
    """How many dimensions [V, D] vectors really use: exp of the entropy of their singular values (Roy & Vetterli 2007).

    1 where all lie on one line, D where all directions are alike; takes V * D^2 operations.
    """
    singular = torch.linalg.eigvalsh((vectors.T @ vectors).double()).clamp(min=0).sqrt()
    proportion = singular / singular.sum().clamp(min=torch.finfo(torch.double).tiny)
    return float(torch.exp(-torch.xlogy(proportion, proportion).sum()))


def mean_cosine(vectors: Tensor) -> float:
    """Mean cosine of the pairs of [Q, D] vectors: near 1, everybody gets the same answer."""
    count = len(vectors)
    unit = F.normalize(vectors.double(), dim=1)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / max(1, count * (count - 1)))


def mean_overlap(listed: Tensor, lists: int) -> float:
    """Which share of a list's items another list has, on the mean (1 - Zhou et al. 2010's personalisation).

    Args:
        listed: [V] how many of the lists have each item.
        lists: Q.
    """
    listed = listed.double()
    return float((listed * (listed - 1)).sum() / max(1.0, float(listed.sum()) * (lists - 1)))


def share(listed: Tensor, some: Tensor) -> float:
    """The share of all places that some items, by row, have."""
    return float(listed[some].sum() / listed.sum().clamp(min=1))


def warnings_of(signs: Mapping[str, float], dim: int) -> list[str]:
    """What is wrong, in words; `dim` is D."""
    found = []
    if signs["effective_rank"] < LOWEST_RANK * dim:
        found.append(f"collapse: the item vectors use {signs['effective_rank']:.1f} of {dim} dimensions")
    if signs["user_cosine"] > HIGHEST_COSINE:
        found.append(f"collapse: users can't be told apart, the mean cosine of two is {signs['user_cosine']:.2f}")
    if signs["list_overlap"] > HIGHEST_OVERLAP:
        same = f"two users' lists have {signs['list_overlap']:.0%} of their items in common"
        popular = signs["most_popular_share"]
        if popular > 0.5:
            found.append(f"popularity only: {same}, and {popular:.0%} of all places go to the most popular items")
        else:
            found.append(f"collapse: {same}")
    return found
