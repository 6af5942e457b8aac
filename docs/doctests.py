"""Show the examples of docstrings as code: an extension of Griffe, which reads docstrings for the site."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?!\s*\n).*)*", flags=re.MULTILINE)  # until the next empty line


class Doctests(Extension):
    """Put lines from `>>>` to the next empty line into a fenced block."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of each object that is read."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(match: re.Match[str]) -> str:
    """Return an example in a block of the language pycon."""
    indent = match[1]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"
