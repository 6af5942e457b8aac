"""What a vector database does for a bundle: it keeps versions of the items beside each other, and answers from one.

Shapes: Q queries, k results each, D embedding dim, n items of a batch.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from twotower.core.arrays import Floats
from twotower.serving.catalogue import ItemId

DIGITS = 12  # of a version's name: the beginning of the bundle's checksum


class VectorDatabase(Protocol):
    """A connection to one database, to load items under one name.

    Each version of the items is a table (a collection) of its own beside the one that answers. `publish` lets the name
    answer from a version, all at once, and removes the others.
    """

    def count(self, version: str) -> int:
        """Return how many items a version has; 0 where there is none of it."""

    def create(self, version: str, columns: pa.Schema, dim: int) -> None:
        """Make an empty version, unless it is there.

        Args:
            version: its name.
            columns: item_id and the filterable features.
            dim: D.
        """

    def write(self, version: str, start: int, columns: pa.Table, vectors: Floats) -> None:
        """Add a batch; one that was written in part or whole is not doubled.

        Args:
            version: its name.
            start: the catalogue's row of the first item.
            columns: [n] item_id and features, of the schema that `create` had.
            vectors: [n, D].
        """

    def finish(self, version: str) -> None:
        """Build what a whole version is searched with."""

    def search(self, version: str, vectors: Floats, k: int) -> Sequence[Sequence[ItemId]]:
        """Return the ids of the best k items of each query [Q, D], best first."""

    def publish(self, version: str) -> None:
        """Let the name answer from this version, and remove the other ones."""

    def close(self) -> None:
        """End the connection."""


def versioned(name: str, version: str) -> str:
    """Return the name of a version's table.

    >>> versioned("items", "0123456789ab"), is_version("items_0123456789ab", "items")
    ('items_0123456789ab', True)
    """
    return f"{name}_{version}"


def is_version(table: str, name: str) -> bool:
    """Whether a table is that of some version of `name`."""
    return re.fullmatch(rf"{name}_[0-9a-f]{{{DIGITS}}}", table) is not None
