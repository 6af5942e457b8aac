"""The index over item vectors, and the exact answers that it is held against.

Shapes: Q queries, k answers each, V items, D embedding dim.
"""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def build_index(vectors: Floats) -> Any:
    """An exact inner-product index over [V, D]; right below about 200k items."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def brute_force(users: Floats, vectors: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows [Q, k] and scores [Q, k] of the best items, by a full sort; memory grows with Q * V."""
    scores = users @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


def index_difference(index: Any, users: Floats, vectors: Floats, k: int) -> float:
    """How far the index is from brute force: rounding where it finds the best items, in any order of ties.

    Returns:
        The largest difference, position by position, between the best scores and those of the items found
        (as the index says, and computed anew); infinite where the index gives an item twice or none.
    """
    found_scores, found = index.search(users, k)
    if (found < 0).any() or (np.diff(np.sort(found, axis=1), axis=1) == 0).any():
        return float("inf")
    _, best = brute_force(users, vectors, k)
    computed = np.einsum("qd,qkd->qk", users, vectors[found])
    return float(max(np.abs(found_scores - best).max(), np.abs(computed - best).max()))
