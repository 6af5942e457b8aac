"""Errors of the server as JSON: what arrived, what was expected, where, and the request's id."""

import re
import reprlib
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError

from twotower.core.errors import nearest

UNION = re.compile(r"(function-|constrained-|dict\[|int$|str$|float$|bool$|nullable)")  # which part of a union it was


class Refused(Exception):
    """A request that can't be answered.

    >>> Refused(404, "path", "there is no item 'sku-9'").status
    404
    """

    def __init__(self, status: int, where: str, message: str) -> None:
        super().__init__(message)
        self.status, self.where, self.message = status, where, message


def body_of(message: str, where: str, request_id: str) -> bytes:
    """Return the JSON of an error."""
    text = message.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return orjson.dumps({"error": {"message": text, "where": where, "request_id": request_id}})


def invalid(error: RequestValidationError, known: Sequence[str]) -> tuple[str, str]:
    """Return where a request is wrong, and how.

    Args:
        error: pydantic's findings; of those at one place the clearest is told.
        known: the keys that the request may have.
    """
    found = sorted(error.errors(), key=_vagueness)
    first = found[0]

    parts = [str(part) for part in first["loc"] if not UNION.match(str(part))]
    where = ".".join(parts) or "body"
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        name = parts[-1][:100]
        message = f"the key {name!r} is unknown; expected one of {', '.join(known)}{nearest(name, known)}"
    elif kind == "missing":
        message = f"{parts[-1]} is missing" if len(parts) > 1 else "the body is missing; expected JSON"
    elif kind == "json_invalid":
        message = f"the body is not JSON: {first.get('ctx', {}).get('error', message)}"
    elif "; expected" not in message:
        wanted = message.removeprefix("Input should be ")
        kinds = {each["type"] for each in found if each["loc"][:-1] == first["loc"][:-1]}
        if kinds >= {"int_type", "string_type"} and "bool_type" not in kinds:
            wanted = "a text or a whole number"
        elif parts[-1:] == ["timestamp"]:
            wanted += ": milliseconds since 1970"
        message = f"{where} is {reprlib.repr(first.get('input'))}; expected {wanted[0].lower()}{wanted[1:]}"
    return where, message


def _vagueness(found: dict[str, Any]) -> tuple[bool, int, bool]:
    """Sorts findings: our own words first, then the deepest place, and last those that only expect another type."""
    return "; expected" not in found["msg"], -len(found["loc"]), found["type"].endswith("_type")
