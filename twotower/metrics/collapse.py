"""Metrics that show a collapsing model, from a sample of queries, and the warnings that they give.

Shapes: Q queries, K items of a list, V items, D embedding dim.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_RANK, HIGHEST_COSINE, HIGHEST_OVERLAP = 0.1, 0.9, 0.8  # warnings beyond them; the rank as a share of D


def collapse_metrics(items: Tensor, user: Tensor, top: Tensor, counts: Tensor) -> dict[str, float]:
    """Compute all collapse metrics, by name.

    Args:
        items: [V, D] item vectors.
        user: [Q, D] user vectors.
        top: [Q, K] item_index of the recommended items.
        counts: [V + 1] training events by item_index.
    """
    places = torch.bincount(top.flatten(), minlength=len(counts))[1:]
    popular = counts[1:].topk(top.shape[1]).indices
    return {
        "effective_rank": effective_rank(items),
        "user_cosine": mean_cosine(user),
        "list_overlap": mean_overlap(places, len(top)),
        "top_1_percent_share": share(places, places.topk(max(1, round(len(places) / 100))).indices),
        "most_popular_share": share(places, popular),
    }


def effective_rank(vectors: Tensor) -> float:
    """Effective number of dimensions of [V, D] vectors: exp of the entropy of their singular values.

    1 where all lie on one line, D where all directions are alike (Roy & Vetterli 2007). Takes V * D^2 operations.
    """
    singular = torch.linalg.eigvalsh((vectors.T @ vectors).double()).clamp(min=0).sqrt()
    proportion = singular / singular.sum().clamp(min=torch.finfo(torch.double).tiny)
    return float(torch.exp(-torch.xlogy(proportion, proportion).sum()))


def mean_cosine(vectors: Tensor) -> float:
    """Mean cosine over the pairs of [Q, D] vectors; near 1, all users get the same list."""
    count = len(vectors)
    unit = F.normalize(vectors.double(), dim=1)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / max(1, count * (count - 1)))


def mean_overlap(places: Tensor, lists: int) -> float:
    """Mean share of items that two lists have in common, 1 - personalisation (Zhou et al. 2010, arXiv:0808.2670).

    Args:
        places: [V] number of lists that contain each item.
        lists: Q.
    """
    places = places.double()
    return float((places * (places - 1)).sum() / max(1.0, float(places.sum()) * (lists - 1)))


def share(places: Tensor, rows: Tensor) -> float:
    """Share of all list places [V] that the items in `rows` occupy."""
    return float(places[rows].sum() / places.sum().clamp(min=1))


def collapse_warnings(metrics: Mapping[str, float], dim: int) -> list[str]:
    """Describe each metric beyond its limit in a sentence; `dim` is D."""
    warnings = []
    if metrics["effective_rank"] < LOWEST_RANK * dim:
        warnings.append(f"collapse: the item vectors use {metrics['effective_rank']:.1f} of {dim} dimensions")
    if metrics["user_cosine"] > HIGHEST_COSINE:
        warnings.append(f"collapse: user vectors are nearly equal, their mean cosine is {metrics['user_cosine']:.2f}")
    if metrics["list_overlap"] > HIGHEST_OVERLAP:
        same = f"two users' lists have {metrics['list_overlap']:.0%} of their items in common"
        popular = metrics["most_popular_share"]
        if popular > 0.5:
            warnings.append(f"popularity only: {same}, and {popular:.0%} of all places go to the most popular items")
        else:
            warnings.append(f"collapse: {same}")
    return warnings
