"""Vectors of texts, file names or whatever a column has, by a function of the user's: a sentence or image encoder."""

import pkgutil
import reprlib
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from twotower.core.errors import UserError

VALUES = 1024  # given to the function at once


def vectors_by(function: str, place: str, values: Sequence[Any]) -> list[Any]:
    """Return each value's vector, None for null.

    Args:
        function: module and name, as in my_shop.text.encode. It takes a list of values, none of them null, and returns
            as many vectors of one length.
        place: for messages.
        values: of the column.

    Raises:
        UserError: there is no such function, or it returns something else.

    >>> vectors_by("numpy.atleast_2d", "feature 'x'", [None])
    [None]
    """
    try:
        encode = pkgutil.resolve_name(function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{place}: encode_with={function} can't be imported ({error}); expected module and function, as in "
            "my_shop.text.encode, of a package that is installed or lies on PYTHONPATH"
        ) from None
    found: list[Any] = [None] * len(values)
    known = [i for i, value in enumerate(values) if value is not None]
    for start in range(0, len(known), VALUES):
        part = known[start : start + VALUES]
        given = [values[i] for i in part]
        try:
            vectors = np.asarray(encode(given))
        except Exception as error:  # of the user's code
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{place}: encode_with={function} raised {type(error).__name__}: {error} ({at.filename}:{at.lineno}), "
                f"for {len(part)} values, the first {reprlib.repr(given[0])}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(part) or vectors.dtype.kind not in "fiu":
            raise UserError(
                f"{place}: encode_with={function} gave an array of shape {vectors.shape} and type {vectors.dtype} for "
                f"{len(part)} values; expected one vector of numbers each, all of one length"
            )
        if not np.isfinite(vectors).all():
            wrong = given[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
            raise UserError(f"{place}: encode_with={function} gave NaN or infinity, for {reprlib.repr(wrong)} first")
        for i, vector in zip(part, vectors.astype(np.float64), strict=True):
            found[i] = vector
    return found
