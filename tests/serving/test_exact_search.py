"""Exact search in parts, against one sort."""

import numpy as np
import pytest

from twotower.serving import exact_search


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_best_part_by_part_equals_one_sort(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(exact_search, "ITEMS", at_once)
    random = np.random.default_rng(1)
    users, vectors = (random.integers(-2, 3, (n, 2)).astype("f4") for n in (6, 50))  # many ties
    rows, scores = exact_search.exact_top_k(users, vectors, 8)
    every = users @ vectors.T
    for query in range(6):
        expected = sorted(range(50), key=lambda row, query=query: (-every[query, row], row))[:8]
        assert rows[query].tolist() == expected
        assert scores[query].tolist() == every[query, expected].tolist()
