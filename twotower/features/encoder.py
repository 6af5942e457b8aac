"""Encoders: fitted on values, stored as plain JSON, applied. Shapes: N values, W numbers a value."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.core.values import LISTS, NULLS, text_of
from twotower.features.bags import Bags, bags
from twotower.features.categories import codes_of, pieces_of, vocabulary_of
from twotower.features.ngrams import ngram_bags
from twotower.features.numbers import (
    Dense,
    fit_vectors,
    moments,
    numbers_of,
    quantile_edges,
    standard,
    vectors_of,
    with_null_flag,
)
from twotower.features.spec import settings_of

Encoder = dict[str, Any]


def fit(
    name: str,
    spec: Mapping[str, Any],
    values: Sequence[Any],
    counts: Sequence[int] | None = None,
    nulls: Collection[str] = NULLS,
) -> Encoder:
    """Fit an encoder on values [N].

    Args:
        name: the feature's name, for messages.
        spec: a declaration that check_spec accepts.
        values: of any type, None for null; for multi lists or text, for vector lists of floats.
        counts: [N] how often each value occurs; None: once.
        nulls: texts that are null.

    Raises:
        UserError: the values don't fit the kind.

    >>> fit("brand", {"kind": "categorical"}, ["B", "A", None])["vocabulary"]
    ['A', 'B']
    """
    settings = {**settings_of(spec), "nulls": list(nulls)}
    weight = np.ones(len(values), dtype=np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    kind = settings["kind"]
    place = f"feature '{name}' (kind {kind})"
    if kind == "text":
        return {key: settings[key] for key in ("kind", "ngrams", "buckets", "nulls")}
    if kind == "vector":
        by = {"encode_with": settings["encode_with"]} if settings["encode_with"] else {}
        return {"kind": kind, **by, **fit_vectors(place, values, weight)}
    if kind in ("categorical", "multi"):
        for value in values if kind == "categorical" else ():
            if isinstance(value, LISTS):
                raise UserError(f"{place} has a list, {value!r}; expected one value an item: kind multi takes lists")
        pieces, length = pieces_of(settings, values)
        vocabulary = vocabulary_of(pieces, np.repeat(weight, length), settings["min_count"])
        kept: dict[str, Any] = {
            key: settings[key] for key in ("kind", "separator", "out_of_vocabulary", "nulls") if key in settings
        }
        return {**kept, "vocabulary": vocabulary}
    number = {"kind": "numeric", "nulls": settings["nulls"], "decimal": settings["decimal"] or "."}
    numbers = numbers_of(values, number["decimal"])
    if np.isnan(numbers).all():  # nulls are valid, but a column of texts is not
        for value in values:
            if isinstance(value, LISTS) or text_of(value, nulls) is not None:
                raise UserError(f"{place} has no number: the first value is {value!r}; is it the right column?")
    if settings["standardise"]:
        return {**number, **moments(numbers, weight, settings["log"])}
    edges = settings["edges"] or quantile_edges(numbers, weight, settings["buckets"])
    return {**number, "edges": [float(edge) for edge in edges]}


def encode(encoder: Encoder, values: Sequence[Any]) -> Bags | Dense:
    """Encode values [N], of any types that `fit` takes, as codes or numbers; unseen texts are out of vocabulary.

    >>> encode({"kind": "numeric", "edges": [10.0]}, [3, "12", None]).codes
    array([1, 2, 0], dtype=int32)
    """
    kind = encoder["kind"]
    if kind == "text":
        texts = [text_of(value, encoder.get("nulls")) for value in values]
        return ngram_bags(texts, encoder["ngrams"], encoder["buckets"])
    if kind == "vector":
        return vectors_of(encoder, values)
    if kind == "numeric" and "edges" not in encoder:
        numbers = numbers_of(values, encoder.get("decimal", "."))
        return with_null_flag(standard(numbers, encoder)[:, None], np.isnan(numbers))
    if kind == "multi":
        pieces, length = pieces_of(encoder, values)
        return bags(codes_of(encoder, pieces), length)
    return Bags(encode_single(encoder, values), np.arange(len(values) + 1, dtype=np.int64))


def encode_single(encoder: Encoder, values: Sequence[Any]) -> npt.NDArray[np.int32]:
    """Return one code for each value [N], by an encoder of kind categorical, or numeric with edges.

    A few values, as in serving, cost a binary search in the vocabulary each.
    """
    if encoder["kind"] == "categorical":
        pieces, length = pieces_of(encoder, values)
        return bags(codes_of(encoder, pieces), length).codes
    numbers = numbers_of(values, encoder.get("decimal", "."))
    codes = 1 + np.searchsorted(encoder["edges"], numbers, side="right")
    return np.where(np.isnan(numbers), 0, codes).astype(np.int32)


def unreadable(encoder: Encoder, values: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """Return [N] which values are neither null nor a number, though the encoder's kind is numeric.

    >>> unreadable({"kind": "numeric", "nulls": ["NA"]}, ["12,99", 3, "NA", None]).tolist()
    [True, False, False, False]
    """
    if encoder["kind"] != "numeric":
        return np.zeros(len(values), dtype=bool)
    suspects = np.isnan(numbers_of(values, encoder.get("decimal", ".")))
    for i in np.flatnonzero(suspects).tolist():
        suspects[i] = text_of(values[i], encoder.get("nulls", ())) is not None
    return suspects


def form(encoder: Encoder) -> dict[str, Any]:
    """Return {"form": "bags", "size": number of codes} or {"form": "dense", "size": W}."""
    kind = encoder["kind"]
    if kind in ("categorical", "multi"):
        return {"form": "bags", "size": 1 + encoder["out_of_vocabulary"] + len(encoder["vocabulary"])}
    if kind == "text":
        return {"form": "bags", "size": 1 + encoder["buckets"]}
    if kind == "numeric" and "edges" in encoder:
        return {"form": "bags", "size": 2 + len(encoder["edges"])}
    return {"form": "dense", "size": 1 + encoder.get("size", 1)}
