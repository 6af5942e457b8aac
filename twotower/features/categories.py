"""Categories: values of any type as texts, texts as codes. Shapes: N values, T texts of all values."""

import zlib
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from twotower.core.arrays import Array
from twotower.core.values import LISTS, text_of


def pieces_of(settings: Mapping[str, Any], values: Sequence[Any]) -> tuple[list[str], Array]:
    """Return the texts [T] of all values [N], and how many each value has [N]."""
    nulls = settings.get("nulls")
    if settings["kind"] == "categorical":
        texts = [text_of(value, nulls) for value in values]
        return [t for t in texts if t is not None], np.array([t is not None for t in texts], dtype=np.int64)
    lists = [_split(value, settings["separator"], nulls) for value in values]
    return list(chain.from_iterable(lists)), np.array([len(row) for row in lists], dtype=np.int64)


def _split(value: Any, separator: str | None, nulls: Collection[str] | None) -> list[str]:
    """Return the distinct texts of one value of a multi-valued feature, sorted."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(separator)] if separator else [value]
    parts = {text_of(part, nulls) for part in (value if isinstance(value, LISTS) else [value])}
    return sorted(part for part in parts if part is not None)


def vocabulary_of(pieces: Sequence[str], weight: Array, min_count: int) -> list[str]:
    """Return the texts that occur at least `min_count` times, sorted by code points."""
    place = {piece: i for i, piece in enumerate(sorted(set(pieces)))}
    count = np.bincount(_look_up(place, pieces), weights=weight, minlength=len(place))
    return [piece for piece, is_kept in zip(place, count >= min_count, strict=True) if is_kept]


def codes_of(encoder: Mapping[str, Any], pieces: Sequence[str]) -> Array:
    """Return codes [T] of texts: 0, the out-of-vocabulary codes, then those of the vocabulary in its order.

    A text outside the vocabulary gets the out-of-vocabulary code that its CRC-32 selects, the same on every machine.
    """
    vocabulary, spare = encoder["vocabulary"], encoder["out_of_vocabulary"]
    codes = {}
    for piece in set(pieces):
        place = bisect_left(vocabulary, piece)
        if place < len(vocabulary) and vocabulary[place] == piece:
            codes[piece] = 1 + spare + place
        else:
            codes[piece] = 1 + zlib.crc32(piece.encode("utf-8", "surrogatepass")) % spare
    return _look_up(codes, pieces)


def _look_up(table: Mapping[str, int], pieces: Sequence[str]) -> Array:
    return np.fromiter(map(table.__getitem__, pieces), dtype=np.int64, count=len(pieces))
