"""Exact search by scoring every item, in plain NumPy: the reference that indexes and bundles are held against.

Shapes: Q queries, k results each, V items, D embedding dim.
"""

import numpy as np

from twotower.core.arrays import Floats, Ints
from twotower.serving.users import Users

ITEMS = 2**14  # scored at once


def exact_top_k(users: Users | Floats, vectors: Floats, k: int) -> tuple[Ints, Floats]:
    """Return rows [Q, k] and scores [Q, k] of the items with the highest scores; ties go to the first row.

    Memory: Q * ITEMS scores at once, however many items there are.

    Args:
        users: Q encoded histories, or vectors [Q, D].
        vectors: [V, D], may be memory-mapped.
        k: results of each query, at most V.

    >>> exact_top_k(np.float32([[1, 0]]), np.float32([[1, 5], [3, 0], [2, 9]]), 2)[0]
    array([[1, 2]])
    """
    users = users if isinstance(users, Users) else Users(users)
    queries = users.vectors
    k, candidates = min(k, len(vectors)), min(users.candidates(k), len(vectors))
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), ITEMS):
        part = queries @ vectors[start : start + ITEMS].T
        top = np.stack([_top_places(row, min(candidates, part.shape[1])) for row in part])
        rows = np.concatenate([rows, start + top], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(part, top, axis=1)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :candidates]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    scores, rows = users.with_history_items(scores, rows, k, vectors)
    return rows, scores


def _top_places(scores: Floats, k: int) -> Ints:
    """Places of the k highest scores, in order; a full sort would take ten times as long."""
    least = np.partition(scores, -k)[-k]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")[:k]]
