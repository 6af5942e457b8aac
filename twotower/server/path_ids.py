"""Ids at the end of a path: any text, as ids of users and items are."""

from starlette.convertors import Convertor


class PathId(Convertor[str]):
    r"""All that is left of a path. Starlette's `path` stops at the end of a line, so `u\n` would be taken for `u`.

    >>> PathId().convert("shoes/red")
    'shoes/red'
    """

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the part of a path."""
        return value
