"""What an item must be like: the language of filters, checked before anything is computed.

    {"category": "shoes"}                    has this value
    {"brand": ["a", "b"]}                    one of these
    {"price": {"min": 10, "max": 50}}        a number from 10 to 50, both included; one of them may lack
    {"in_stock": true}                       true, and likewise false
    {"brand": null}                          has no value
    {"not": {...}}                           what does not hold
    {"any": [{...}, {...}]}                  at least one holds

All keys of a predicate must hold; {} holds for every item. A column with several values an item holds where one of
them does. Columns are texts or numbers: what is compared with texts becomes the text that preparation makes of it (12
and 12.0 are "12", true is "true"), and true is 1 among numbers, as there. An item without a value satisfies no
comparison, so `not` of a comparison holds for it. Features can't be named `not` or `any` here.

Predicates come from outside: their depth and size are limited.
"""

import math
import reprlib
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from twotower.core.errors import UserError, nearest
from twotower.features.categories import text_of

Kind = Literal["text", "number"]
Predicate = dict[str, Any]
NOT, ANY = "not", "any"
BOUNDS = ("min", "max")
DEPTH = 8  # of predicates within predicates
CONDITIONS = 100  # each looks at all items
VALUES = 10_000
FORMS = 'a value, a list of values, {"min": ..., "max": ...}, true, false or null'


def checked(predicate: Any, kinds: Mapping[str, Kind]) -> Predicate:
    """The predicate in its one form: plain JSON, values as their column has them, each condition a list or bounds.

    Args:
        predicate: as it arrived.
        kinds: of the columns that there are.

    Raises:
        UserError: a column that there is not, a value that its column can't have, another shape, or too much of it.
    """
    result = _predicate(predicate, kinds, 1)
    conditions, values = _size(result)
    if conditions > CONDITIONS or values > VALUES:
        raise UserError(
            f"the filter has {conditions:,} conditions and {values:,} values; at most {CONDITIONS} and {VALUES:,} are "
            "taken. For many values of one column use a list, for many items `include` or `exclude`"
        )
    return result


def _predicate(predicate: Any, kinds: Mapping[str, Kind], depth: int) -> Predicate:
    if not isinstance(predicate, Mapping):
        raise UserError(f'a filter is {reprlib.repr(predicate)}; expected an object, as in {{"category": "shoes"}}')
    if depth > DEPTH:
        raise UserError(f"the filter is nested more than {DEPTH} deep; say it with fewer levels")
    return {str(name): _condition(name, value, kinds, depth) for name, value in predicate.items()}


def _condition(name: Any, value: Any, kinds: Mapping[str, Kind], depth: int) -> Any:
    if name == NOT:
        return _predicate(value, kinds, depth + 1)
    if name == ANY:
        if not isinstance(value, list | tuple):
            raise UserError(f"'{ANY}' in a filter is {reprlib.repr(value)}; expected a list of filters")
        return [_predicate(one, kinds, depth + 1) for one in value]
    if name not in kinds:
        hint = nearest(name[:100], kinds) if isinstance(name, str) else ""
        raise UserError(
            f"the filter asks for {reprlib.repr(name)}; items have {', '.join(kinds) or 'nothing'}"
            f"{hint or '. Features can be asked for that were declared when the model was trained'}"
        )
    if isinstance(value, Mapping):
        return _bounds(name, value, kinds[name])
    return [_value(name, one, kinds[name]) for one in (value if isinstance(value, list | tuple) else [value])]


def _bounds(name: str, bounds: Mapping[Any, Any], kind: Kind) -> dict[str, float]:
    if not bounds or not set(bounds) <= set(BOUNDS):
        raise UserError(f"the filter of '{name}' is {reprlib.repr(dict(bounds))}; expected {FORMS}")
    if kind != "number":
        raise UserError(f"the filter of '{name}' asks for a range, but '{name}' has texts; expected a value or a list")
    return {str(key): _number(name, value) for key, value in bounds.items()}


def _value(name: str, value: Any, kind: Kind) -> str | float | None:
    if value is None:
        return None
    if kind == "number":
        return _number(name, value)
    text = text_of(value) if isinstance(value, str | Real | np.bool_) else None
    if text is None or not _is_unicode(text):
        raise UserError(f"the filter of '{name}' has {reprlib.repr(value)}; expected {FORMS}")
    return text


def _number(name: str, value: Any) -> float:
    """An int stays one: ids and counts are compared exactly."""
    try:
        if isinstance(value, Integral | np.bool_) and math.isfinite(float(value)):
            return int(value)
        if isinstance(value, Real) and math.isfinite(value):
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
    """How many conditions there are, predicates counted among them, and how many values in them."""
    conditions, values = 1, 0
    for name, condition in predicate.items():
        if name in (NOT, ANY):
            for one in [condition] if name == NOT else condition:
                more_conditions, more_values = _size(one)
                conditions, values = conditions + more_conditions, values + more_values
        else:
            conditions, values = conditions + 1, values + len(condition)
    return conditions, values
