"""Encoders: learnt from values, kept as plain JSON, applied. Shapes: N values, W numbers a value."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.features.bags import Bags, bags
from twotower.features.categories import LISTS, codes_of, pieces_of, text_of, vocabulary_of
from twotower.features.ngrams import ngram_bags
from twotower.features.numbers import (
    Dense,
    moments,
    numbers_of,
    quantile_edges,
    standard,
    vector_facts,
    vectors_of,
    with_null_flag,
)
from twotower.features.spec import settings_of

Array = npt.NDArray[Any]
Encoder = dict[str, Any]


def fit(name: str, spec: Mapping[str, Any], values: Sequence[Any], counts: Sequence[int] | None = None) -> Encoder:
    """Learn an encoder from values [N].

    Args:
        name: the feature's name, for messages.
        spec: a declaration that check_spec has passed.
        values: of any type, None for null; for multi lists or text, for vector lists of floats.
        counts: [N] how often each value occurs; None: once.

    Raises:
        UserError: values that the kind can't mean anything to.
    """
    settings = settings_of(spec)
    weight = np.ones(len(values), dtype=np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    kind = settings["kind"]
    place = f"feature '{name}' (kind {kind})"
    if kind in ("categorical", "multi"):
        if kind == "categorical":
            _refuse_lists(place, values)
        pieces, length = pieces_of(settings, values)
        vocabulary = vocabulary_of(pieces, np.repeat(weight, length), settings["min_count"])
        kept = {"separator": settings["separator"]} if kind == "multi" else {}
        return {"kind": kind, **kept, "out_of_vocabulary": settings["out_of_vocabulary"], "vocabulary": vocabulary}
    if kind in ("numeric", "price"):
        numbers = numbers_of(values)
        _refuse_unreadable(place, values, numbers)
        if settings["standardise"]:
            return {"kind": "numeric", **moments(numbers, weight, settings["log"])}
        edges = settings["edges"] or quantile_edges(numbers, weight, settings["buckets"])
        return {"kind": "numeric", "edges": [float(edge) for edge in edges]}
    if kind == "text":
        return {"kind": kind, "ngrams": list(settings["ngrams"]), "buckets": settings["buckets"]}
    return {"kind": kind, **vector_facts(place, values, weight)}


def encode(encoder: Encoder, values: Sequence[Any]) -> Bags | Dense:
    """Codes or numbers of values [N], of any types that `fit` takes; unseen ones fall in out-of-vocabulary codes."""
    kind = encoder["kind"]
    if kind == "text":
        return ngram_bags(values, encoder["ngrams"], encoder["buckets"])
    if kind == "vector":
        return vectors_of(encoder, values)
    if kind == "numeric" and "edges" not in encoder:
        numbers = numbers_of(values)
        return with_null_flag(standard(numbers, encoder)[:, None], np.isnan(numbers))
    if kind == "multi":
        pieces, length = pieces_of(encoder, values)
        return bags(codes_of(encoder, pieces), length)
    return Bags(encode_single(encoder, values), np.arange(len(values) + 1, dtype=np.int64))


def encode_single(encoder: Encoder, values: Sequence[Any]) -> npt.NDArray[np.int32]:
    """[N] one code for each value, by an encoder of kind categorical or numeric with edges.

    Serving calls it for a few values at a time: that costs a search in the vocabulary, never a pass over it.
    """
    if encoder["kind"] == "categorical":
        pieces, length = pieces_of(encoder, values)
        return bags(codes_of(encoder, pieces), length).codes
    numbers = numbers_of(values)
    codes = 1 + np.searchsorted(encoder["edges"], numbers, side="right")
    return np.where(np.isnan(numbers), 0, codes).astype(np.int32)


def form(encoder: Encoder) -> dict[str, Any]:
    """{"form": "bags", "size": codes 0 .. size - 1} or {"form": "dense", "size": W}."""
    kind = encoder["kind"]
    if kind in ("categorical", "multi"):
        return {"form": "bags", "size": 1 + encoder["out_of_vocabulary"] + len(encoder["vocabulary"])}
    if kind == "text":
        return {"form": "bags", "size": 1 + encoder["buckets"]}
    if kind == "numeric" and "edges" in encoder:
        return {"form": "bags", "size": 2 + len(encoder["edges"])}
    return {"form": "dense", "size": 1 + encoder.get("size", 1)}


def _refuse_lists(place: str, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, LISTS):
            raise UserError(f"{place} has a list, {value!r}; expected one value an item: kind multi takes lists")


def _refuse_unreadable(place: str, values: Sequence[Any], numbers: Array) -> None:
    """Nulls are fine; a column of which nothing is a number was not meant."""
    if np.isnan(numbers).all():
        for value in values:
            if isinstance(value, LISTS) or text_of(value) is not None:
                raise UserError(f"{place} has no number: the first value is {value!r}; is it the right column?")
