"""Texts as bags of hashed character n-grams. Shapes: N values, T n-grams of all texts."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from twotower.core.arrays import Array
from twotower.core.ragged import ranges
from twotower.features.bags import Bags, bags

TEXTS_AT_ONCE = 1 << 16
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that products keep all bits (Knuth's multiplicative hashing)


def ngram_bags(values: Sequence[str | None], ngrams: Sequence[int], buckets: int) -> Bags:
    """Return the hashed n-grams of each value's text; chunks of values bound the memory."""
    parts = [
        _ngram_codes(values[i : i + TEXTS_AT_ONCE], ngrams, buckets)
        for i in range(0, max(1, len(values)), TEXTS_AT_ONCE)
    ]
    length = np.concatenate([length for _, length in parts])
    return bags(np.concatenate([codes for codes, _ in parts]), length)


def _ngram_codes(values: Sequence[str | None], ngrams: Sequence[int], buckets: int) -> tuple[Array, Array]:
    """Return codes [T] from 1, value after value, and how many each value has [N].

    All texts are in one array of code points. The n-grams at all positions are hashed at once, as polynomials of their
    characters; those that reach into the next text are left out.
    """
    texts = [_normal(value, ngrams[-1]) for value in values]
    chars = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    size = np.array([len(text) for text in texts], dtype=np.int64)
    begin = np.cumsum(size) - size
    number = np.maximum(size[:, None] - ngrams + 1, 0)  # [N, lengths of n-grams]
    place = np.cumsum(number).reshape(number.shape) - number
    codes = np.empty(number.sum(), dtype=np.int32)
    for column, n in enumerate(ngrams):
        windows = max(0, len(chars) - n + 1)
        hashed = np.full(windows, n, dtype=np.uint64)
        for i in range(n):
            hashed = hashed * MULTIPLIER + chars[i : i + windows]
        hashed = hashed[ranges(begin, number[:, column])]
        hashed = (hashed ^ (hashed >> np.uint64(32))) * MULTIPLIER  # so that the bucket depends on all bits
        codes[ranges(place[:, column], number[:, column])] = 1 + (hashed >> np.uint64(32)) % np.uint64(buckets)
    return codes, number.sum(axis=1)


def _normal(value: str | None, longest: int) -> str:
    """Normalise a text: NFKC, lower case, single spaces, one at each end, padded to the longest n-gram."""
    words = unicodedata.normalize("NFKC", value or "").lower().split()
    return f" {' '.join(words)} ".ljust(longest) if words else ""
