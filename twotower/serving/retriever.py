"""Retriever: histories of item ids or events in, the best items of the catalogue out.

Shapes: Q queries, k results each, V items, K event inputs, D embedding dim.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from twotower.core.arrays import Floats, Ints, Mask
from twotower.core.schema import ITEMS_FILE, PAD
from twotower.serving.answers import Audience, Recommendations
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.catalogue import Catalogue, ItemId
from twotower.serving.event_encoder import Event
from twotower.serving.exclusions import rows_by_history
from twotower.serving.explanations import LISTS_OF_ITEMS, explain, known_places
from twotower.serving.exploration import check_exploration, novelty
from twotower.serving.filters import ItemFilter
from twotower.serving.histories import ITEMS, KnownEvents, as_list, encoded_histories, positive, read_histories
from twotower.serving.objectives import objective_weights
from twotower.serving.popular import popular_if_unknown
from twotower.serving.query_times import asked_at
from twotower.serving.selection import Selection, select
from twotower.serving.unknown import Unknown
from twotower.serving.user_tower import encode_histories
from twotower.serving.users import Users, blend


class Retriever:
    """Recommend items from a bundle as the trained model would; safe to share between threads.

        retriever = Retriever.load("bundles/demo")
        result = retriever.recommend([["sku-1", "sku-2"]], k=2, exclude_seen=True)
        for item_id, score in zip(result.ids[0], result.scores[0]):
            print(item_id, score)

    Memory: the ids, and what is read of index and vectors, which stay on disk. At most `threads` compute a call, each
    its share of the histories. A process may fork at any time between calls.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, strict: bool = False) -> None:
        self._bundle = bundle
        self._threads = threads
        form = bundle.encoder.form
        self._catalogue = Catalogue(bundle.item_ids, form)
        self._unknown = Unknown(strict)
        self._filter = ItemFilter(bundle.file(ITEMS_FILE), self._catalogue, self._unknown, form)
        self._popular = np.argsort(-bundle.train_count, kind="stable")  # [V] rows; ties in the catalogue's order
        self._novelty = novelty(bundle.train_count, bundle.age_days)  # [V]

    @classmethod
    def load(cls, path: str | Path, threads: int = 1, int8: bool = False, strict: bool = False) -> Self:
        """Open a bundle.

        Args:
            path: its folder.
            threads: that a call may use.
            int8: use the user tower with 8-bit weights.
            strict: refuse requests that name what the bundle does not have, instead of counting it in `unknown`.

        Raises:
            UserError: a file is missing, damaged, of another bundle or of another format version; or `int8` and the
                bundle has no 8-bit tower.
        """
        return cls(open_bundle(path, int8), threads, strict)

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self._bundle

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of the catalogue's ids."""
        return self._catalogue.id_type

    @property
    def unknown(self) -> dict[str, int]:
        """How many ids, keys and values of all requests the bundle did not have, by the kinds of serving.unknown."""
        return self._unknown.counts

    @property
    def inputs(self) -> list[str]:
        """Names of the model's event inputs, in the order of their codes."""
        return list(self._bundle.inputs)

    def recommend(
        self,
        histories: Sequence[Sequence[ItemId | Event]],
        k: int = 20,
        *,
        context: Mapping[str, Any] | None = None,
        objective: str | Mapping[str, float] | None = None,
        timestamp: Any = None,
        exclude_seen: bool = False,
        filters: Mapping[str, Any] | None = None,
        include: Sequence[ItemId] | None = None,
        exclude: Sequence[ItemId] | Sequence[Sequence[ItemId]] | None = None,
        max_per: Mapping[str, int] | None = None,
        exploration: float = 0.0,
        seed: int | None = None,
    ) -> Recommendations:
        """Return the k items with the highest score for each history.

        A history is a list of item ids or of events, oldest first. An event is a mapping with `item_id` and the values
        of the model's event inputs (manifest.json), as far as they are known: `event_type`, `timestamp` (milliseconds
        since 1970, or a datetime, UTC where it has no zone), event features under the column's name. A missing value
        counts as unknown, as does everything but the item of a bare id, and an event type that training did not have;
        a new value of a feature is encoded as the feature's encoder encodes new values.

        What the bundle does not have is counted in `unknown`, and refused where the retriever is strict. Items that the
        catalogue does not have are skipped, then the newest `max_length` of the others are used. A history without a
        known item gets the items most frequent in training, with NaN for scores. Items of the history stay in.

        Args:
            histories: Q histories. The gap before an event is that to the previous event, known or not.
            k: results for each history; with k > V, all V items are returned.
            context: values for all events of the request that do not have their own, as {"device": "phone"}.
            objective: rank what comes next of this event type, or of several by weight, as {"view": 0.2, "purchase":
                0.8}; None: of any type. The bundle's types are its manifest's "objectives".
            timestamp: of the request, one or Q, if the manifest says "query_time"; None: that of the newest event.
            exclude_seen: leave out all items of the history, however long ago.
            filters: a predicate that results must satisfy: see serving.predicates.
            include: ids that results must be among; None: all.
            exclude: ids that results must not have: one list for all histories, or Q lists, one for each.
            max_per: the most results that may share a value of a column of items.parquet, as {"brand": 2}.
            exploration: the share of results, from 0 to 1, drawn from beyond the best k, new and rare items more
                often: see serving.exploration.
            seed: of exploration; the same request with the same seed has the same results. None: a new one each time.

        Returns:
            Q lists of min(k, V) ids, fewer where fewer are allowed, and their scores; with exploration also the
            probability that each result had. The results of a history do not depend on the others in the request,
            beyond rounding in the last digits.

        Raises:
            UserError: histories that are no lists, a k that is no positive integer, ids all of another type than the
                catalogue's, an event without item_id, with a malformed timestamp or a misspelt key, a malformed filter.
        """
        events = self._read(histories, context, timestamp)
        seen = events.rows if exclude_seen else None
        allowed, excluded = self._allowed(filters, include, exclude, len(events.length), seen)
        selection = Selection(positive(k), excluded, self._filter.caps(max_per), *check_exploration(exploration, seed))
        return self._results(self._encode(events, objective), allowed, selection)

    def unknown_in(self, histories: Sequence[Sequence[ItemId | Event]]) -> dict[str, int]:
        """Return how much of histories the bundle does not have, by kind as in `unknown`, where it is not counted."""
        read_histories(histories, None, self._catalogue, self._bundle.encoder, found := Unknown())
        return found.counts

    def recommend_encoded(
        self, histories: Sequence[Sequence[ItemId]], codes: Sequence[Any], k: int = 20, now: Ints | None = None
    ) -> Recommendations:
        """As `recommend`, for item ids with codes [K] of the inputs of each event, and the seconds [Q] of the query."""
        known = list(self._bundle.inputs.values()), self._catalogue, self._unknown
        encoded = self._encode(encoded_histories(histories, codes, *known)._replace(now=now))
        return self._results(encoded, None, Selection(positive(k)))

    def similar_items(
        self,
        items: Sequence[ItemId],
        k: int = 20,
        *,
        filters: Mapping[str, Any] | None = None,
        include: Sequence[ItemId] | None = None,
        exclude: Sequence[ItemId] | Sequence[Sequence[ItemId]] | None = None,
        max_per: Mapping[str, int] | None = None,
    ) -> Recommendations:
        """Return the k items most similar to each item, by the dot product of their vectors, without the item itself.

        An item that the catalogue does not have gets an empty list; a strict retriever refuses it. See `recommend`.
        """
        index = self._item_index(items)
        itself = np.split(index - 1, len(index)) if len(index) else None
        allowed, excluded = self._allowed(filters, include, exclude, len(index), itself)
        selection = Selection(positive(k), excluded, self._filter.caps(max_per))
        ids, scores, *_ = self._results(Users(self._bundle.vectors[np.maximum(index - 1, 0)]), allowed, selection)
        scores[index == PAD] = np.nan
        return Recommendations([row if item != PAD else [] for row, item in zip(ids, index, strict=True)], scores)

    def audience(
        self,
        items: Sequence[ItemId],
        histories: Sequence[Sequence[ItemId | Event]],
        k: int = 20,
        objective: str | Mapping[str, float] | None = None,
        timestamp: Any = None,
    ) -> Audience:
        """Return the k histories of the request, of users or sessions, with the highest scores for each item.

        Histories without a known item are in no audience, and an item that the catalogue does not have has none.
        Memory: the scores of all histories with all items of the request.
        """
        index = self._item_index(items)
        users = self._encode(self._read(histories, None, timestamp), objective)
        best, scores = users.best_for(np.maximum(index - 1, 0), self._bundle.vectors, positive(k))
        scores[index == PAD] = np.nan
        return Audience([row.tolist() if item != PAD else [] for row, item in zip(best, index, strict=True)], scores)

    def explain(
        self,
        histories: Sequence[Sequence[ItemId | Event]],
        items: Sequence[Sequence[ItemId]],
        context: Mapping[str, Any] | None = None,
        objective: str | Mapping[str, float] | None = None,
        timestamp: Any = None,
    ) -> list[Floats]:
        """Return each history's [k, L]: the share of each of its L events in the score of each of its k items.

        `items` are the ids of `recommend`'s answer, or any others; see serving.explanations.
        """
        events = self._read(histories, context, timestamp)
        lists = as_list(items, "items", LISTS_OF_ITEMS)
        rows = [self._item_index(as_list(ids, f"items[{i}]", LISTS_OF_ITEMS)) - 1 for i, ids in enumerate(lists)]
        newest = int(self._bundle.manifest["max_length"])
        encode = partial(self._encode, objective=objective)
        return explain(events, known_places(histories, self._catalogue), rows, self._bundle.vectors, newest, encode)

    def encode(
        self,
        histories: Sequence[Sequence[ItemId | Event]],
        context: Mapping[str, Any] | None = None,
        objective: str | Mapping[str, float] | None = None,
        timestamp: Any = None,
    ) -> Floats:
        """Return [Q, D] the user vectors of histories (see `recommend`); NaN for one without a known item."""
        return self._encode(self._read(histories, context, timestamp), objective).vectors

    def _read(self, histories: Any, context: Any, timestamp: Any) -> KnownEvents:
        events = read_histories(histories, context, self._catalogue, self._bundle.encoder, self._unknown)
        return asked_at(timestamp, events, self.inputs, self._bundle.manifest.get("query_time", False), self._unknown)

    def _item_index(self, items: Any) -> Ints:
        return self._catalogue.item_index(as_list(items, "items", ITEMS), "items", self._unknown)

    def _allowed(
        self, filters: Any, include: Any, exclude: Any, queries: int, others: list[Ints] | None
    ) -> tuple[Mask | None, list[Ints] | None]:
        """The mask [V] of items that all queries may get, and rows [Q] that each may not: those of `others`, too."""
        excluded = rows_by_history(exclude, queries, self._catalogue, self._unknown)
        allowed = self._filter.allowed(filters, include, exclude if excluded is None else None)
        if excluded is None or others is None:
            return allowed, excluded or others
        return allowed, [np.concatenate(pair) for pair in zip(excluded, others, strict=True)]

    def _encode(self, events: KnownEvents, objective: str | Mapping[str, float] | None = None) -> Users:
        """Encoded histories; vectors of NaN where no item is known."""
        bundle = self._bundle
        known = bundle.tower, bundle.history_vectors, events, int(bundle.manifest["max_length"]), self._threads
        asked = objective_weights(objective, bundle.manifest.get("objectives", []))  # absent in older bundles
        return blend([(weight, encode_histories(*known, code)) for code, weight in asked])

    def _results(self, queries: Users, allowed: Mask | None, selection: Selection) -> Recommendations:
        """Results for Q queries."""
        size = len(self._catalogue.ids) if allowed is None else int(np.count_nonzero(allowed))
        k = min(selection.k, size)
        if selection.is_plain:  # most requests: whole arrays
            scores, rows = self._rank(queries, k, allowed)
            return Recommendations(self._catalogue.ids[rows].tolist(), scores)
        selected = select(
            lambda n, m: self._rank(queries[n], m, allowed), len(queries), size, selection._replace(k=k), self._novelty
        )
        ids = [self._catalogue.ids[rows].tolist() for rows in selected.rows]
        return Recommendations(ids, selected.scores, selected.propensities, selected.ranks)

    def _rank(self, queries: Users, k: int, allowed: Mask | None) -> tuple[Floats, Ints]:
        search = partial(self._bundle.index.search, k=k, allowed=allowed, threads=self._threads)
        return popular_if_unknown(queries, search, self._popular, k, allowed)
