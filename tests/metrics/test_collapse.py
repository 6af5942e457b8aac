"""Signs of collapse: by hand, and on planted patients."""

import math
from itertools import combinations, permutations

import pytest
import torch

from twotower.metrics.collapse import (
    collapse_metrics,
    collapse_warnings,
    effective_rank,
    mean_cosine,
    mean_overlap,
    share,
)


def test_effective_rank_of_what_is_known() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(40, 5)) == pytest.approx(1, abs=1e-3)
    singular = torch.tensor([3.0, 1.0])
    vectors = torch.linalg.qr(torch.randn(9, 2)).Q * singular
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(vectors) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert effective_rank(torch.zeros(4, 3)) == pytest.approx(1)  # no direction at all


def test_mean_cosine_is_that_of_all_pairs() -> None:
    vectors = torch.randn(7, 3)
    pairs = [torch.cosine_similarity(vectors[a], vectors[b], dim=0) for a, b in combinations(range(7), 2)]
    assert mean_cosine(vectors) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert mean_cosine(vectors[:1]) == 0


def test_mean_overlap_is_that_of_all_pairs() -> None:
    lists = [[1, 2, 3], [3, 4, 5], [3, 2, 6], [7, 1, 2]]
    listed = torch.bincount(torch.tensor(lists).flatten(), minlength=9)[1:]
    expected = [len(set(a) & set(b)) / 3 for a, b in permutations(lists, 2)]
    assert mean_overlap(listed, 4) == pytest.approx(sum(expected) / len(expected))
    assert share(listed, torch.tensor([2 - 1, 3 - 1])) == pytest.approx(6 / 12)
    assert mean_overlap(listed[:0], 0) == 0


def warnings(kind: str) -> list[str]:
    torch.manual_seed(0)
    items, user = torch.randn(400, 16), torch.randn(200, 16)
    counts = torch.arange(401).flip(0)
    if kind == "one line of items":
        items = items[:, :1] * torch.ones(16) + 0.01 * torch.randn(400, 16)
    if kind == "one user":
        user = torch.ones(200, 16) + 0.1 * torch.randn(200, 16)
    top = (user @ items.T).topk(20).indices + 1
    if kind == "popularity":
        top = counts[1:].topk(20).indices.expand(200, -1) + 1
    if kind == "one list":
        top = top[:1].expand(200, -1)
    return collapse_warnings(collapse_metrics(items, user, top, counts), 16)


def test_each_kind_of_collapse_is_named() -> None:
    assert warnings("well") == []
    assert any(w.startswith("collapse") and " 1." in w and "16 dimensions" in w for w in warnings("one line of items"))
    assert any(w.startswith("collapse") and "cosine" in w for w in warnings("one user"))
    (popular,) = warnings("popularity")
    assert popular.startswith("popularity only") and popular.count("100%") == 2
    (same,) = warnings("one list")
    assert same.startswith("collapse") and same.count("100%") == 1
