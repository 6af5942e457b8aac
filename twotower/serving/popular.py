"""Popular items, for queries without a known item. Shapes: Q queries, k results each, V items."""

from collections.abc import Callable

import numpy as np

from twotower.core.arrays import Floats, Ints, Mask
from twotower.serving.users import Users


def popular_if_unknown(
    queries: Users, search: Callable[[Users], tuple[Floats, Ints]], popular: Ints, k: int, allowed: Mask | None
) -> tuple[Floats, Ints]:
    """Return scores and rows [Q, k] of the best items; popular ones and NaN for queries of NaN.

    Args:
        queries: Q of them; vectors of NaN where no item of the history is known.
        search: the scores and rows of the best k items for queries without NaN.
        popular: [V] rows of items, the most frequent first.
        k: results for each query, at most the number of allowed items.
        allowed: [V] mask of items; None: all.
    """
    unknown = np.isnan(queries.vectors[:, 0])
    if not unknown.any():
        return search(queries)
    scores = np.full((len(queries), k), np.nan, dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    rows[unknown] = (popular if allowed is None else popular[allowed[popular]])[:k]
    if not unknown.all():
        scores[~unknown], rows[~unknown] = search(queries[~unknown])
    return scores, rows
