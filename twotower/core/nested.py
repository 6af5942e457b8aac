"""Nested mappings, such as configurations, as flat ones."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(node: Any, separator: str = ".", name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a nested mapping with its name; an empty mapping is a value.

    >>> list(leaves({"model": {"dim": 8, "inputs": ["gap"]}}))
    [('model.dim', 8), ('model.inputs', ['gap'])]
    """
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, separator, f"{name}{separator}{key}" if name else str(key))
    else:
        yield name, node


def has(node: Any, name: str) -> bool:
    """Return whether a nested mapping has the dotted name, be it null.

    >>> has({"model": {"layers": None}}, "model.layers"), has({"model": {}}, "model.layers")
    (True, False)
    """
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True
