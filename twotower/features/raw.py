"""Raw values, as the catalogue keeps them for filters and for people. Shapes: N values."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twotower.core.values import text_of
from twotower.features.categories import pieces_of
from twotower.features.encoder import Encoder
from twotower.features.numbers import numbers_of


def raw_values(encoder: Encoder, values: Sequence[Any]) -> list[Any]:
    """Return [N] texts (kinds categorical and text), lists of texts (multi) or floats (numeric), None for null.

    Encoding them gives the same as encoding `values`. Raises ValueError for vectors, which have no raw form.

    >>> raw_values({"kind": "categorical"}, [3.0, "x", None])
    ['3', 'x', None]
    """
    kind = encoder["kind"]
    if kind == "vector":
        raise ValueError("vectors have no raw form")
    if kind == "multi":
        pieces, length = pieces_of(encoder, values)
        stop = np.cumsum(length)
        return [pieces[i:j] or None for i, j in zip((stop - length).tolist(), stop.tolist(), strict=True)]
    if kind == "numeric":
        numbers = numbers_of(values, encoder.get("decimal", "."))
        is_null = np.isnan(numbers).tolist()
        return [None if null else number for number, null in zip(numbers.tolist(), is_null, strict=True)]
    return [text_of(value, encoder.get("nulls")) for value in values]
