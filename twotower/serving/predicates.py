"""The language of filters: predicates over item features, checked before anything is computed.

    {"category": "shoes"}                    has this value
    {"brand": ["a", "b"]}                    one of these
    {"price": {"min": 10, "max": 50}}        a number from 10 to 50, both included; either may be omitted
    {"in_stock": true}                       true, and likewise false
    {"brand": null}                          has no value
    {"not": {...}}                           the predicate does not hold
    {"any": [{...}, {...}]}                  at least one of them holds

All keys of a predicate must hold; {} holds for every item. Where items have several values of a column, one of them
must satisfy the condition. Columns are texts or numbers: a value compared with texts becomes the text that preparation
makes of it (12, 12.0 and "12.0" are "12", true and "True" are "true", null words are null), a text compared with
numbers becomes a number, and true is 1 among numbers, as there. An item without a value satisfies no comparison, so
`not` of a comparison holds for it. Features named `not` or `any` can't be filtered by.

Predicates come from requests, so their depth and size are limited.
"""

import math
import re
import reprlib
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from twotower.core.errors import UserError, nearest
from twotower.core.values import TextForm, number_of

Predicate = dict[str, Any]
NOT, ANY = "not", "any"
BOUNDS = ("min", "max")
DEPTH = 8  # of predicates within predicates
CONDITIONS = 100  # each is evaluated for all items
VALUES = 10_000
FORMS = 'a value, a list of values, {"min": ..., "max": ...}, true, false or null'


def checked(predicate: Any, is_number: Mapping[str, bool], form: TextForm) -> Predicate:
    """Return the predicate in canonical form: plain JSON, values of their column's type, conditions lists or bounds.

    Args:
        predicate: as it arrived.
        is_number: each column's name, and whether it holds numbers; else it holds texts.
        form: how texts are read.

    Raises:
        UserError: an unknown column, a value that its column can't hold, a malformed predicate, or too large a one.

    >>> checked({"price": {"max": 50}, "brand": "a"}, {"price": True, "brand": False}, TextForm())
    {'price': {'max': 50}, 'brand': ['a']}
    """
    result = _predicate(predicate, is_number, form, 1)
    conditions, values = _size(result)
    if conditions > CONDITIONS or values > VALUES:
        raise UserError(
            f"the filter has {conditions:,} conditions and {values:,} values; at most {CONDITIONS} and {VALUES:,} are "
            "accepted. For many values of one column use a list, for many items `include` or `exclude`"
        )
    return result


def _predicate(predicate: Any, is_number: Mapping[str, bool], form: TextForm, depth: int) -> Predicate:
    if not isinstance(predicate, Mapping):
        raise UserError(f'a filter is {reprlib.repr(predicate)}; expected an object, as in {{"category": "shoes"}}')
    if depth > DEPTH:
        raise UserError(f"the filter is nested more than {DEPTH} levels deep; write it with fewer")
    return {str(name): _condition(name, value, is_number, form, depth) for name, value in predicate.items()}


def _condition(name: Any, value: Any, is_number: Mapping[str, bool], form: TextForm, depth: int) -> Any:
    if name == NOT:
        return _predicate(value, is_number, form, depth + 1)
    if name == ANY:
        if not isinstance(value, list | tuple):
            raise UserError(f"'{ANY}' in a filter is {reprlib.repr(value)}; expected a list of filters")
        return [_predicate(alternative, is_number, form, depth + 1) for alternative in value]
    if name not in is_number:
        hint = nearest(name[:100], is_number) if isinstance(name, str) else ""
        raise UserError(
            f"the filter names {reprlib.repr(name)}; items have {', '.join(is_number) or 'no columns'}"
            f"{hint or '. Filters can name the features that were declared when the model was trained'}"
        )
    if isinstance(value, Mapping):
        return _bounds(name, value, is_number[name])
    return [_value(name, v, is_number[name], form) for v in (value if isinstance(value, list | tuple) else [value])]


def _bounds(name: str, bounds: Mapping[Any, Any], is_number: bool) -> dict[str, float]:
    if not bounds or not set(bounds) <= set(BOUNDS):
        raise UserError(f"the filter of '{name}' is {reprlib.repr(dict(bounds))}; expected {FORMS}")
    if not is_number:
        raise UserError(f"the filter of '{name}' is a range, but '{name}' has texts; expected a value or a list")
    return {str(key): _number(name, value) for key, value in bounds.items()}


def _value(name: str, value: Any, is_number: bool, form: TextForm) -> str | float | None:
    if value is None or (isinstance(value, str) and form.text(value) is None):
        return None
    if is_number:
        return _number(name, value)
    text = form.text(value) if isinstance(value, str | Real | np.bool_) else None
    if text is None or not _is_unicode(text):
        raise UserError(f"the filter of '{name}' has {reprlib.repr(value)}; expected {FORMS}")
    return text


def _number(name: str, value: Any) -> float:
    """Return an int or a float; an int stays one, so that ids and counts are compared exactly."""
    try:
        if isinstance(value, str):
            if re.fullmatch("[+-]?[0-9]{1,30}", value):
                return int(value)
            if math.isfinite(number := number_of(value)):
                return number
        elif isinstance(value, Integral | np.bool_) and math.isfinite(float(value)):
            return int(value)
        elif isinstance(value, Real) and math.isfinite(value):
            return float(value)
    except OverflowError:
        raise UserError(f"the filter of '{name}' has a number too large to compare with") from None
    raise UserError(f"the filter of '{name}' has {reprlib.repr(value)}; '{name}' has numbers, expected a finite one")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON lets through and no file holds
        return False
    return True


def _size(predicate: Predicate) -> tuple[int, int]:
    """Count conditions, nested predicates among them, and their values."""
    conditions, values = 1, 0
    for name, condition in predicate.items():
        nested = [condition] if name == NOT else condition if name == ANY else []
        sizes = [_size(part) for part in nested] if name in (NOT, ANY) else [(1, len(condition))]
        conditions, values = conditions + sum(c for c, _ in sizes), values + sum(v for _, v in sizes)
    return conditions, values
