"""Declarations of features: kinds, their settings with defaults, and checks."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twotower.core.errors import UserError, nearest

VOCABULARY = {"min_count": 1, "out_of_vocabulary": 1}
NUMBER = {"buckets": None, "edges": None, "standardise": False, "log": False, "decimal": None}
KINDS: dict[str, dict[str, Any]] = {  # kind -> settings with defaults; each has `kind` and `column`, too
    "categorical": VOCABULARY,
    "multi": {"separator": None, **VOCABULARY},
    "numeric": NUMBER,
    "price": {**NUMBER, "log": True},
    "text": {"ngrams": [3, 4], "buckets": 4096},
    "vector": {"encode_with": None},
}
PRICE_BUCKETS = 20
SINGLE = ("categorical", "numeric", "price")  # kinds that can give one code per value


def check_spec(name: str, spec: Mapping[str, Any], single: bool) -> None:
    """Raise UserError unless `spec` declares a valid feature.

    Args:
        name: the feature's name.
        spec: its declaration: kind, column (null: the name) and the kind's settings.
        single: whether it must give one code per value, as a feature of events.
    """
    place = f"preparation.features.{'events' if single else 'items'}.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*", str(name), re.ASCII):
        raise UserError(f"{place}: a feature's name has letters, digits and _, and begins with a letter; rename it")
    if not isinstance(spec, Mapping) or "kind" not in spec:
        raise UserError(f"{place}={spec!r}; expected a mapping with a kind: {', '.join(KINDS)}")
    kind = spec["kind"]
    if kind not in KINDS:
        raise UserError(f"{place}.kind={kind}; expected {', '.join(KINDS)}{nearest(str(kind), KINDS)}")
    keys = ["kind", "column", *KINDS[kind]]
    for key in spec:
        if key not in keys:
            raise UserError(
                f"{place}.{key} is not a setting of kind {kind}; it has {', '.join(keys)}{nearest(str(key), keys)}"
            )
    settings = settings_of(spec)
    for key, (is_right, expected) in _CHECKS.items():
        if settings.get(key) is not None and not is_right(settings[key]):
            raise UserError(f"{place}.{key}={settings[key]}; expected {expected}")
    if "edges" in settings:
        ways = [key for key in ("buckets", "edges", "standardise") if settings[key] not in (None, False)]
        if len(ways) != 1:
            raise UserError(
                f"{place} has {' and '.join(ways) or 'neither buckets, edges nor standardise'}; "
                "expected one: buckets (how many quantiles), edges (a list of numbers) or standardise: true"
            )
    if single and (kind not in SINGLE or settings.get("standardise")):
        raise UserError(
            f"{place}: an event's feature is one code, so its kind is categorical, or numeric or price with buckets "
            f"or edges; it is {kind}{' with standardise' if kind in SINGLE else ''}"
        )


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a declaration with its kind's defaults in place of null or missing settings, and with plain lists."""
    settings = {**KINDS[spec["kind"]], **{key: value for key, value in spec.items() if value is not None}}
    for key in ("edges", "ngrams"):
        if isinstance(settings.get(key), Sequence) and not isinstance(settings[key], str):
            settings[key] = list(settings[key])
    if settings["kind"] == "price" and not settings["edges"] and not settings["standardise"]:
        settings["buckets"] = settings["buckets"] or PRICE_BUCKETS
    return settings


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_edges(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    return numbers and len(value) > 0 and value == sorted(set(value))


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_whole(1), value)) and value == sorted(set(value))


# setting -> whether a value is right, and what is expected
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "column": (lambda v: isinstance(v, str), "a column's name"),
    "encode_with": (lambda v: isinstance(v, str) and "." in v, "module and function, as in my_shop.text.encode"),
    "min_count": (_is_whole(1), "a whole number of at least 1"),
    "out_of_vocabulary": (_is_whole(1), "a whole number of at least 1: codes that unseen values share"),
    "separator": (lambda v: isinstance(v, str) and v != "", "the text between two values"),
    "buckets": (_is_whole(2), "a whole number of at least 2"),
    "edges": (_are_edges, "different numbers in ascending order"),
    "standardise": (lambda v: isinstance(v, bool), "true or false"),
    "log": (lambda v: isinstance(v, bool), "true or false"),
    "decimal": (lambda v: v in (".", ","), "'.' or ',': what is before the decimals of numbers that are texts"),
    "ngrams": (_are_lengths, "lengths of n-grams in ascending order, as [3, 4]"),
}
