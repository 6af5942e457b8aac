"""A made shop whose items have features, and the list that a request must get: item by item, in a loop.

Shapes: V items, D embedding dim.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from serving_oracle import MAX_LENGTH, toy_user

V = 60
IDS = [100 + 7 * row for row in range(V)]
_RANDOM = np.random.default_rng(11)
COUNTS = [int(count) for count in _RANDOM.integers(0, 30, V)]
BRAND = [["a", "a", "a", "b", "c", None][i] for i in _RANDOM.integers(0, 6, V)]
TAGS = [[["x"], ["y"], ["x", "y"], ["z", "x"], [], None][i] for i in _RANDOM.integers(0, 6, V)]
PRICE = [float(price) if price < 90 else None for price in _RANDOM.integers(1, 100, V)]
VALUES: dict[str, list[list[str]]] = {
    "brand": [[brand] if brand is not None else [] for brand in BRAND],
    "tags": [tags or [] for tags in TAGS],
}
COLUMNS = {
    "brand": pa.array(BRAND, pa.string()),
    "tags": pa.array(TAGS, pa.list_(pa.string())),
    "price": pa.array(PRICE, pa.float64()),
}
FILTERS: list[tuple[Any, Callable[[int], bool]]] = [  # and for which rows they hold
    (None, lambda row: True),
    ({}, lambda row: True),
    ({"brand": "a"}, lambda row: BRAND[row] == "a"),
    ({"brand": ["b", None]}, lambda row: BRAND[row] in ("b", None)),
    ({"price": {"min": 20, "max": 60}}, lambda row: PRICE[row] is not None and 20 <= PRICE[row] <= 60),
    ({"not": {"tags": "x"}}, lambda row: "x" not in VALUES["tags"][row]),
    ({"tags": "y", "brand": "a"}, lambda row: BRAND[row] == "a" and "y" in VALUES["tags"][row]),
    ({"any": [{"brand": "c"}, {"tags": "z"}]}, lambda row: BRAND[row] == "c" or "z" in VALUES["tags"][row]),
    ({"brand": "none such"}, lambda row: False),
]


def naive_scores(vectors: np.ndarray[Any, Any], history: Sequence[int]) -> list[float] | None:
    """[V] of each item after a history of ids; None where nothing of it is known."""
    known = [IDS.index(item) + 1 for item in history if item in IDS][-MAX_LENGTH:]
    if not known:
        return None
    user = toy_user(vectors, known)
    return [float(vector.astype(np.float64) @ user) for vector in vectors]


def naive_list(
    scores: Sequence[float] | None,
    k: int,
    *,
    holds: Callable[[int], bool] = lambda row: True,
    include: Collection[int] | None = None,
    exclude: Collection[int] = (),
    max_per: Mapping[str, int] | None = None,
) -> tuple[list[int], list[float]]:
    """Ids and scores of the k best items that may be answers; where there are no scores, of those seen most often."""
    ranked = sorted(range(V), key=lambda row: -(COUNTS if scores is None else scores)[row])
    rows: list[int] = []
    shown: Counter[tuple[str, str]] = Counter()
    for row in ranked:
        item, groups = IDS[row], {(name, value) for name in max_per or {} for value in VALUES[name][row]}
        allowed = holds(row) and item not in exclude and (include is None or item in include)
        if allowed and all(shown[group] < (max_per or {})[group[0]] for group in groups):
            rows.append(row)
            shown.update(groups)
    rows = rows[:k]
    return [IDS[row] for row in rows], [np.nan if scores is None else scores[row] for row in rows]
