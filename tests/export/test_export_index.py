"""The measure by which an index is accepted."""

import faiss
import numpy as np
import pytest

from twotower.export.index import brute_force, build_index, index_difference

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(50, 8)).astype(np.float32)
USERS = RANDOM.normal(size=(30, 8)).astype(np.float32)


def test_brute_force_by_hand() -> None:
    rows, scores = brute_force(
        np.array([[1, 2]], np.float32), np.array([[1, 0], [0, 1], [3, 3], [1, 0]], np.float32), 4
    )
    assert rows.tolist() == [[2, 1, 0, 3]]  # ties in the catalogue's order
    assert scores.tolist() == [[9, 2, 1, 1]]


def test_exact_index_is_accepted_with_ties_too() -> None:
    assert index_difference(build_index(VECTORS), USERS, VECTORS, 10) < 1e-5
    twice = np.concatenate([VECTORS, VECTORS])
    assert index_difference(build_index(twice), USERS, twice, 11) < 1e-5


@pytest.mark.parametrize("fault", ["rolled", "l2", "short"])
def test_wrong_index_is_not(fault: str) -> None:
    if fault == "rolled":
        index = build_index(np.roll(VECTORS, 1, axis=0))
    elif fault == "l2":
        index = faiss.IndexFlatL2(8)
        index.add(VECTORS)
    else:
        index = build_index(VECTORS[:5])
    assert index_difference(index, USERS, VECTORS, 10) > 0.1
