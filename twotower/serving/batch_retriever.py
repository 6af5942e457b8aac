"""A Retriever for batches, whose histories are in the bundle's codes already and which keep their filters.

Shapes: Q queries, k results each, V items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from twotower.core.arrays import Ints, Mask
from twotower.serving.answers import Recommendations
from twotower.serving.histories import KnownEvents, positive
from twotower.serving.query_times import asked_at
from twotower.serving.retriever import Retriever
from twotower.serving.selection import Selection


class BatchRetriever(Retriever):
    """Recommend for parts of many histories what Retriever.recommend does for each.

    retriever = BatchRetriever.load("bundles/demo", threads=8)
    allowed = retriever.allowed({"price": {"max": 50}}, None, ["sku-7"])  # once for all parts
    result = retriever.recommend_known(events, k=20, allowed=allowed, excluded=events.rows)
    """

    def allowed(self, filters: Any, include: Any, exclude: Any) -> Mask | None:
        """Return the mask [V] of items that `filters` and the lists `include` and `exclude` allow; None: all.

        The arguments are those of `recommend`, and so are the errors.
        """
        return self._filter.allowed(filters, include, exclude)

    def recommend_known(
        self,
        events: KnownEvents,
        k: int = 20,
        *,
        objective: str | Mapping[str, float] | None = None,
        timestamp: Any = None,
        allowed: Mask | None = None,
        excluded: Sequence[Ints] | None = None,
        max_per: Mapping[str, int] | None = None,
    ) -> Recommendations:
        """Return the k items with the highest score for each history.

        Args:
            events: of Q histories.
            k, objective, timestamp, max_per: as in `recommend`.
            allowed: of `allowed`.
            excluded: [Q] rows of the catalogue that each history's results must not have; None: none.

        Raises:
            UserError: see `recommend`.
        """
        has_query_time = self._bundle.manifest.get("query_time", False)
        asked = asked_at(timestamp, events, self.inputs, has_query_time, self._unknown)
        selection = Selection(positive(k), excluded, self._filter.caps(max_per))
        return self._results(self._encode(asked, objective), allowed, selection)
