"""The hit rate of a join or a list: how many of its entries were found, with examples where few were."""

from collections.abc import Collection
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.core.values import healing

ENOUGH = 0.5  # share of matches below which there is a warning
SAMPLE = 10_000  # ids of each side that are compared to find what would heal them


class Match(NamedTuple):
    """How many of some ids were found elsewhere.

    >>> print(Match("data.items", "items", 1, 3, ["A7"], ["a7"]).warning)
    data.items: 1 of 3 items matched; 'A7' did not, among ids like 'a7'. preparation.ids=[case] makes them equal
    """

    place: str  # the setting or argument that names the list or table
    what: str  # what the ids are
    matched: int
    total: int
    unmatched: Collection[Any] = ()  # some of the ids that were not found
    others: Collection[Any] = ()  # some of those among which they were looked for
    remedy: str = ""  # what else to do
    of_people: bool = False  # warnings, which are kept in files, name none of the ids then

    def __str__(self) -> str:
        """Return the hit rate in words."""
        return f"{self.place}: {self.matched:,} of {self.total:,} {self.what} matched"

    @property
    def is_low(self) -> bool:
        """Whether fewer than ENOUGH were found."""
        return self.matched < ENOUGH * self.total

    @property
    def warning(self) -> str | None:
        """The hit rate with an example of each side if it is below ENOUGH."""
        if not self.is_low:
            return None
        ids, others = (list(map(str, side))[:SAMPLE] for side in (self.unmatched, self.others))
        steps, pair = healing(ids, others)
        pair = pair or ((ids[0], others[0]) if ids and others else None)
        examples = f"; {pair[0]!r} did not, among ids like {pair[1]!r}" if pair and not self.of_people else ""
        remedy = f"preparation.ids=[{','.join(steps)}] makes them equal" if steps else self.remedy
        return f"{self}{examples}{remedy and '. '}{remedy}"

    def require(self) -> "Match":
        """Return this; raises UserError where nothing matched."""
        if self.total and not self.matched:
            raise UserError(str(self._replace(of_people=False).warning))
        return self
