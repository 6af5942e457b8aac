"""Caps on a list of results (`max_per`): at most so many items that share a value of a column.

Shapes: V items, m ranked candidates of one query (best first).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twotower.core.arrays import Ints
from twotower.serving.item_columns import CategoryColumn


class Cap(NamedTuple):
    """At most `limit` results for each value of a column."""

    column: CategoryColumn
    limit: int


def within_caps(rows: Ints, caps: Sequence[Cap], enough: int) -> Ints:
    """Return places in `rows` [m] of the candidates within all caps, the first `enough` of them.

    In order, a candidate is taken if no value of its columns has as many results as its cap allows; it then counts
    for each of its values. An item without a value of a column is not capped by it.
    """
    # A loop, as each candidate depends on those before it.
    spans = [(cap.column.offsets[rows].tolist(), cap.column.offsets[rows + 1].tolist()) for cap in caps]
    counts: list[dict[int, int]] = [{} for _ in caps]
    places: list[int] = []
    for place in range(len(rows)):
        values = [cap.column.codes[i[place] : j[place]].tolist() for cap, (i, j) in zip(caps, spans, strict=True)]
        if any(
            count.get(code, 0) >= cap.limit
            for cap, count, codes in zip(caps, counts, values, strict=True)
            for code in codes
        ):
            continue
        for count, codes in zip(counts, values, strict=True):
            for code in set(codes):
                count[code] = count.get(code, 0) + 1
        places.append(place)
        if len(places) == enough:
            break
    return np.array(places, dtype=np.int64)
