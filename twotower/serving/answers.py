"""Answers of a Retriever. Shapes: Q queries, k results each."""

from typing import NamedTuple

from twotower.core.arrays import Floats
from twotower.serving.catalogue import ItemId


class Recommendations(NamedTuple):
    """Recommended items of each query, best first."""

    ids: list[list[ItemId]]  # [Q][k], fewer where fewer items are allowed
    scores: Floats  # [Q, k] similarity; NaN for the popularity fallback, and beyond the last id


class Audience(NamedTuple):
    """The histories with the highest scores for each item, best first."""

    histories: list[list[int]]  # [items][k] positions in the request
    scores: Floats  # [items, k] similarity; NaN where there are fewer histories
