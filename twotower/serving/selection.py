"""From ranked candidates to the k results of a query: widen the search, filter candidates, choose results.

A plain request needs none of this: its results are the k best items. Shapes: Q queries, k results each, V items, m
candidates of one query (best first).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.arrays import Array, Floats, Ints
from twotower.serving.caps import Cap, within_caps
from twotower.serving.exploration import POOL, explore

Rank = Callable[[Ints, int], tuple[Floats, Ints]]  # queries' numbers [n], m -> scores and rows [n, m]
CANDIDATES = 2**14  # the most that are searched where few pass


class Selection(NamedTuple):
    """What a request asks of its list of results."""

    k: int
    excluded: Sequence[Ints] | None = None  # [Q] rows that each query's results must not have
    caps: Sequence[Cap] = ()
    exploration: float = 0.0
    seed: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the k best items are the results."""
        return self.excluded is None and not (self.caps or self.exploration)


class Selected(NamedTuple):
    """The results of all queries: see answers.Recommendations."""

    rows: list[Ints]  # [Q][up to k]
    scores: Floats  # [Q, k]
    propensities: Array | None  # [Q, k]
    ranks: Ints | None  # [Q, k]


def select(rank: Rank, queries: int, size: int, selection: Selection, novelty: npt.NDArray[np.float64]) -> Selected:
    """Return the results of each query.

    Args:
        rank: searches the allowed items.
        queries: Q.
        size: how many items are allowed; at least k.
        selection: what the request asks for.
        novelty: [V] weights for exploration.
    """
    k = selection.k
    results = [np.empty(0, np.int64)] * queries
    scores = np.full((queries, k), np.nan, dtype=np.float32)
    propensities, ranks = np.full(scores.shape, np.nan), np.full(scores.shape, -1)
    wanted = k * (POOL if selection.exploration else 1)
    for query, found_scores, rows in _widen(rank, queries, size, selection, wanted):
        places = np.arange(min(k, len(rows)))
        if selection.exploration:
            random = np.random.default_rng(selection.seed)
            places, chance = explore(len(rows), k, selection.exploration, random, novelty[rows])
            propensities[query, : len(places)] = chance
        results[query] = rows[places]
        scores[query, : len(places)] = found_scores[places]
        ranks[query, : len(places)] = places
    return Selected(results, scores, *((propensities, ranks) if selection.exploration else (None, None)))


def _widen(
    rank: Rank, queries: int, size: int, selection: Selection, wanted: int
) -> Iterator[tuple[int, Floats, Ints]]:
    """Yield candidates that pass; search four times as many for queries with fewer than `wanted`, up to CANDIDATES."""
    excluded = selection.excluded or [np.empty(0, np.int64)] * queries
    most_excluded = max(map(len, excluded), default=0)
    most = min(size, max(wanted + most_excluded, CANDIDATES))
    fetch = most_excluded + wanted * (4 if selection.caps else 1)
    pending = np.arange(queries)
    while len(pending):
        fetch = min(fetch, most)
        short = []
        for query, scores, rows in zip(pending.tolist(), *rank(pending, fetch), strict=True):
            places = _filter(rows, excluded[query], selection.caps, wanted)
            if len(places) < wanted and fetch < most:
                short.append(query)
            else:
                yield query, scores[places], rows[places]
        pending = np.array(short, dtype=np.int64)
        fetch *= 4


def _filter(rows: Ints, excluded: Ints, caps: Sequence[Cap], wanted: int) -> Ints:
    """Places of the candidates that are not excluded, and within all caps."""
    places = np.flatnonzero(~np.isin(rows, excluded))
    return places[within_caps(rows[places], caps, wanted)] if caps else places
