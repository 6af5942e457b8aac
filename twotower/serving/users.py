"""Encoded histories: user vectors and, with a pointer, by how much the scores of each history's own items change.

An item's score is the dot product with the user vector, plus the bonus where the history has the item. So the best
items are among the history's items and the best others by dot product.
Shapes: Q queries, L history length, k results each, V items, D embedding dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twotower.core.arrays import LARGEST_EXPONENT, Array, Floats, Ints, Mask
from twotower.core.schema import PAD

NONE = -1  # in place of a row, where a history has no (further) item


@dataclass(frozen=True)
class Users:
    """Q encoded histories.

    >>> users = Users(np.float32([[1, 0]]), np.array([[2, NONE]]), np.float32([[0.5, 0]]))
    >>> scores, rows = np.float32([[3, 1]]), np.array([[0, 1]])
    >>> users.with_history_items(scores, rows, 2, np.float32([[3, 0], [1, 0], [2, 0]]))
    (array([[3. , 2.5]], dtype=float32), array([[0, 2]]))
    """

    vectors: Floats  # [Q, D]; NaN for a history without a known item
    rows: Ints | None = None  # [Q, L] catalogue rows of a history's items, each once, then NONE; None: no pointer
    bonus: Floats | None = None  # [Q, L] what is added to the score of each

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, part: Any) -> "Users":
        if self.rows is None or self.bonus is None:
            return Users(self.vectors[part])
        return Users(self.vectors[part], self.rows[part], self.bonus[part])

    def candidates(self, k: int) -> int:
        """How many of the best items by dot product have the best k in them, beside the history's."""
        return k if self.bonus is None else k + int((self.bonus < 0).sum(axis=1).max(initial=0))

    def with_history_items(
        self, scores: Floats, rows: Ints, k: int, table: Floats, allowed: Mask | None = None
    ) -> tuple[Floats, Ints]:
        """Return the best k among the history's items and candidates [Q, n]; ties go to the first row.

        Args:
            scores, rows: of the candidates, the best items by dot product, best first.
            k: results of each query, at most n.
            table: [V, D] item vectors.
            allowed: [V] which items may be results; None: all.
        """
        if self.rows is None or self.bonus is None:
            return scores[:, :k], rows[:, :k]
        place = np.maximum(self.rows, 0)
        own = (table[place] @ self.vectors[:, :, None])[:, :, 0] + self.bonus
        lacking = self.rows == NONE
        own[lacking if allowed is None else lacking | ~allowed[place]] = -np.inf
        repeated = (rows[:, :, None] == self.rows[:, None, :]).any(axis=2)
        scores, rows = np.append(np.where(repeated, -np.inf, scores), own, axis=1), np.append(rows, place, axis=1)
        order = np.lexsort((rows, -scores), axis=-1)[:, :k]
        query = np.arange(len(rows))[:, None]
        return scores[query, order].astype(np.float32, copy=False), rows[query, order]

    def scores_of(self, rows: Ints, table: Floats) -> Floats:
        """Return [k, Q] the scores of items, given by their k rows of table [V, D], for every history."""
        scores: Floats = table[rows] @ self.vectors.T
        if self.rows is not None and self.bonus is not None:
            for place, row in enumerate(rows.tolist()):
                scores[place] += np.where(self.rows == row, self.bonus, 0).sum(axis=1)
        return scores

    def best_for(self, rows: Ints, table: Floats, k: int) -> tuple[Ints, Floats]:
        """Return the histories [n, known] with the highest scores for each of n items, and the scores [n, k].

        There are at most k of them, without those of unknown items alone; the scores end in NaN.
        """
        known = np.flatnonzero(~np.isnan(self.vectors[:, 0]))
        scores = self[known].scores_of(rows, table)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, len(self))]
        padded = np.full((len(rows), min(k, len(self))), np.nan, dtype=np.float32)
        padded[:, : best.shape[1]] = np.take_along_axis(scores, best, axis=1)
        return known[best], padded


def blend(parts: Sequence[tuple[float, Users]]) -> Users:
    """Users whose scores are the weighted sums of the scores of the same histories, encoded for several objectives."""
    (weight, users), *others = parts
    if weight == 1 and not others:
        return users
    vectors = sum((share * each.vectors for share, each in others), weight * users.vectors)
    if users.bonus is None:
        return Users(vectors)
    bonus = sum((share * each.bonus for share, each in others if each.bonus is not None), weight * users.bonus)
    return Users(vectors, users.rows, bonus)


def first_of_each(history: Array) -> Mask:
    """[B, L] whether an event of histories [B, L] is the first of its item; False for PAD."""
    first: Mask = _first(history[:, :, None] == history[:, None, :]) & (history != PAD)
    return first


def _first(same: Mask) -> Mask:
    """[B, L] whether an event is the first of those that are the same [B, L, L]."""
    first: Mask = same.argmax(axis=2) == np.arange(same.shape[1])
    return first


def distinct_bonuses(pointer: Floats, temperature: float, history: Array) -> tuple[Ints, Floats]:
    """Rows and bonuses [B, L] of Users, from the pointer's logits.

    Args:
        pointer: [B, L] logits of the events.
        temperature: of the model's scores.
        history: [B, L] item_index, PAD after the end.
    """
    same = history[:, :, None] == history[:, None, :]
    is_item = history != PAD
    exponential = np.exp(np.clip(pointer, -LARGEST_EXPONENT, LARGEST_EXPONENT, dtype=np.float64)) * is_item
    is_first = _first(same) & is_item
    total = (same * exponential[:, None, :]).sum(axis=2)
    bonus = temperature * np.log(total, out=np.zeros_like(total), where=is_first)
    return np.where(is_first, history - 1, NONE), bonus.astype(np.float32)
