"""One text form for each value: 12, 12.0, "12" and "12.0" are one text, True, "True" and "true" another.

Readers, joins, vocabularies, lists and requests all use it; twotower.data.text_form is the same for polars columns.
Spaces around a text, its case and leading zeros stay, unless `preparation.ids` says otherwise for ids.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from twotower.core.errors import UserError, nearest

NULLS = ("NaN", "nan", "NaT", "null", "NULL", "None", "NA", "<NA>")  # texts that are null, beside the empty one
WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "-0": "0"}
WHOLE = r"([+-]?[0-9]+)\.0+"
EXACT = 1e16  # whole floats below it are written as integers, and the others as Python does: 1e+16
SPACES = " \t\r\n\f\v\u00a0\u3000"
ZEROS = r"^0+([0-9]+)$"
LISTS = (list, tuple, np.ndarray)
STEPS = ("strip", "case", "zeros")  # what preparation.ids can heal, in the order of application
_WHOLE, _ZEROS = re.compile(WHOLE), re.compile(ZEROS)


def text_of(value: Any, nulls: Collection[str] | None = NULLS) -> str | None:
    """Return the text form of a value; None for null: None, NaN, infinity, lists, the empty text and null words.

    Args:
        value: of any type.
        nulls: the null words; None: texts stay as they are, as artifacts of earlier versions have them.

    >>> [text_of(value) for value in (36.0, "36.0", "007", 0.5, True, "TRUE", "NaN", " a")]
    ['36', '36', '007', '0.5', 'true', 'true', None, ' a']
    """
    if isinstance(value, str):
        if nulls is None or not value:
            return value or None
        if value in nulls:
            return None
        whole = _WHOLE.fullmatch(value) if value[-1] == "0" else None
        text = whole[1] if whole else value
        return WORDS.get(text, text)
    if value is None or isinstance(value, (*LISTS, dict)):
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return None
        return str(int(value)) if -EXACT < value < EXACT and value == int(value) else str(value)
    return str(value) if isinstance(value, int | np.integer) else text_of(str(value), nulls)


def number_of(value: Any, decimal: str = ".") -> float:
    """Return a value as a number, NaN where it is none; true is 1, false 0.

    With `decimal` "," texts are read as "12,99" and "1.299,00".
    """
    if isinstance(value, str):
        value = {"true": "1", "false": "0"}.get(text_of(value) or "", value).strip(SPACES)
        if decimal == ",":
            is_number = re.fullmatch(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]*)?|[+-]?,[0-9]+", value)
            value = value.replace(".", "").replace(",", ".") if is_number else math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


@dataclass(frozen=True)
class TextForm:
    """How texts are read: the null words, and what is healed in ids of items and users (of STEPS).

    >>> TextForm(ids=("strip", "case", "zeros")).id(" 00A "), TextForm().id("007.0")
    ('00a', '007')
    """

    nulls: tuple[str, ...] | None = NULLS
    ids: tuple[str, ...] = ()

    def text(self, value: Any) -> str | None:
        """Return text_of the value."""
        return text_of(value, self.nulls)

    def id(self, value: Any) -> str | None:
        """Return the text form of an id, healed."""
        value = value.strip(SPACES) if "strip" in self.ids and isinstance(value, str) else value
        text = text_of(value, self.nulls or ())
        if text is not None and "case" in self.ids:
            text = text.lower()
        return _ZEROS.sub(r"\1", text) if text is not None and "zeros" in self.ids else text

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads, as FEATURES_FILE keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, features: Mapping[str, Any]) -> "TextForm":
        """Read it from the content of FEATURES_FILE; those of earlier versions have none."""
        given = features.get("values")
        return cls(tuple(given["nulls"]), tuple(given["ids"])) if given else cls(None)


def check_steps(steps: Collection[str]) -> None:
    """Raise UserError for an unknown entry of preparation.ids."""
    for step in steps:
        if step not in STEPS:
            hint = nearest(str(step), STEPS) or "."
            raise UserError(f"preparation.ids has '{step}'{hint} Expected some of {', '.join(STEPS)}")


def healing(ids: Iterable[str], others: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """Return the fewest STEPS by which most of `ids` are among `others`, and the first pair that they make equal.

    >>> healing(["7", "8"], ["0007", "0008"])
    (('zeros',), ('7', '0007'))
    """
    ids, others = list(ids), list(others)
    best: tuple[tuple[str, ...], tuple[str, str] | None] = (), None
    most = len(set(ids) & set(others))
    for steps in (steps for n in range(1, len(STEPS) + 1) for steps in combinations(STEPS, n)):
        form = TextForm(ids=steps)
        known = {form.id(other): other for other in others}
        pairs = [(value, known[form.id(value)]) for value in ids if form.id(value) in known]
        if len(pairs) > most:
            best, most = (steps, next(pair for pair in pairs if pair[0] != pair[1])), len(pairs)
    return best
