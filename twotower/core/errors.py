"""Errors that the user can correct: shown as one message, without a traceback."""

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps


class UserError(ValueError):
    """Wrong input; the message says what arrived, what was expected, and what to do.

    >>> raise UserError("k=0; expected a number of at least 1")
    Traceback (most recent call last):
    twotower.core.errors.UserError: k=0; expected a number of at least 1
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar choice, or an empty string if none is similar.

    >>> nearest("evnts", ["events", "prepared"])
    "; did you mean 'events'?"
    """
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def printing_user_errors(main: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """Decorate a command that is also run as a module: a UserError is printed as one message, the exit status is 2."""

    @wraps(main)
    def command(arguments: Sequence[str]) -> int:
        try:
            return main(arguments)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return command
