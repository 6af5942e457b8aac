"""Errors that a user can mend: shown as one message, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong input: the message says what arrived, what was expected, and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice most like `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
