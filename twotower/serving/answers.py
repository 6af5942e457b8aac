"""Answers of a Retriever. Shapes: Q queries, k results each."""

from typing import NamedTuple

from twotower.core.arrays import Array, Floats, Ints
from twotower.serving.catalogue import ItemId


class Recommendations(NamedTuple):
    """Recommended items of each query, best first."""

    ids: list[list[ItemId]]  # [Q][k], fewer where fewer items are allowed
    scores: Floats  # [Q, k] similarity; NaN for the popularity fallback, and beyond the last id
    # With exploration alone; see serving.exploration. An impression log keeps both: see serving.impressions.
    propensities: Array | None = None  # [Q, k] float64: the probability of each result; NaN beyond the last id
    ranks: Ints | None = None  # [Q, k] its place without exploration; -1 beyond the last id


class Audience(NamedTuple):
    """The histories with the highest scores for each item, best first."""

    histories: list[list[int]]  # [items][k] positions in the request
    scores: Floats  # [items, k] similarity; NaN where there are fewer histories
