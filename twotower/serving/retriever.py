"""Retriever: histories of item ids or events in, the best items of the catalogue out.

    python -m twotower.serving.retriever BUNDLE ITEM_ID [ITEM_ID ...]

Shapes: Q queries, k answers each, V items, E events in all histories together, K event inputs, D embedding dim.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.core.schema import ITEM_ID, ITEMS_FILE, PAD
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.events import Event, item_ids
from twotower.serving.filters import ItemFilter
from twotower.serving.histories import (
    ITEMS,
    Catalogue,
    ItemId,
    Known,
    as_context,
    as_list,
    flatten,
    known_events,
    positive,
)
from twotower.serving.lists import POOL, Cap, at_most, check_exploration, explore, novelty
from twotower.serving.user_tower import encode_histories

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
CANDIDATES = 2**14  # looked through at most where answers are left out one by one


class Recommendations(NamedTuple):
    """Answers in the order of the queries, best first."""

    ids: list[list[ItemId]]  # [Q][k], fewer where not so many items are allowed
    scores: Floats  # [Q, k] similarity; NaN where the answer is the popularity fallback, or where there is none


class Audience(NamedTuple):
    """The histories to which an item is nearest, best first."""

    histories: list[list[int]]  # [items][k] positions in the request
    scores: Floats  # [items, k] similarity; NaN where there are fewer histories


class Retriever:
    """Answers queries from a bundle, exactly as the trained model would; safe to share between threads.

    Memory: the index, the ids, and what is read of the vectors, which stay on disk. Every call is computed by the
    thread that makes it, and by `threads` at most; one is best where requests come side by side.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._bundle = bundle
        self._threads = threads
        self._catalogue = Catalogue(bundle.item_ids)
        self._filter = ItemFilter(bundle.file(ITEMS_FILE), self._catalogue)
        self._popular = np.argsort(-bundle.train_count, kind="stable")  # [V] rows; ties in the catalogue's order
        self._novelty = novelty(bundle.train_count, bundle.age_days)  # [V]

    @classmethod
    def load(cls, path: str | Path, threads: int = 1, int8: bool = False) -> "Retriever":
        """Open a bundle; raises UserError when a file of it is missing, damaged, mixed up or newer.

        Args:
            path: its folder.
            threads: that a call may use.
            int8: take the user tower with 8-bit weights, where the bundle has it.
        """
        return cls(open_bundle(path, threads, int8), threads)

    @property
    def bundle(self) -> Bundle:
        """What it answers from."""
        return self._bundle

    @property
    def id_type(self) -> type[int] | type[str]:
        """The type of the catalogue's ids."""
        return self._catalogue.id_type

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
        exclude_seen: bool = False,
        filters: Mapping[str, Any] | None = None,
        include: Sequence[ItemId] | None = None,
        exclude: Sequence[ItemId] | None = None,
        max_per: Mapping[str, int] | None = None,
        exploration: float = 0.0,
        seed: int | None = None,
    ) -> Recommendations:
        """The k items with the highest score after each history.

        A history is a list of item ids or of events, oldest first. An event is a mapping with `item_id` and what the
        model's event inputs (manifest.json) come from, as far as it is known: `event_type`, `timestamp` (milliseconds
        since 1970, or a datetime, UTC where it has no zone), event features under the column's name. A value that is
        missing counts as unknown, and so does all about a bare id but the item; so does a type that training did not
        have, while a new value of a feature is what its encoder makes of new values.

        Items that the catalogue does not have are skipped, then the newest `max_length` of the rest count.
        A history of which nothing is left gets the items most frequent in training, with NaN for scores.
        Items of the history itself may be among the answers. NumPy integers count as integers.

        Args:
            histories: Q histories. The pause before an event is taken from the event before it, known or not.
            k: answers a history; with k > V, all V items come back.
            context: what holds for all events of the request that do not say otherwise, as {"device": "phone"}.
            exclude_seen: leave out the items of the history itself, all of them, however long ago.
            filters: what answers must be like: see serving.filters.
            include: answers are among these ids; None: all.
            exclude: and not among these. Ids that the catalogue does not have are ignored in both.
            max_per: the most answers that may share a value of a column of items.parquet, as {"brand": 2}.
            exploration: the share of answers, from 0 to 1, that chance picks from beyond the best k, new and rarely
                seen items rather than others: see serving.lists.
            seed: of that chance; the same request with the same seed has the same answers. None: never the same.

        Returns:
            Q lists of min(k, V) ids, fewer where fewer are allowed, and their scores. A history's answers do not
            depend on the others in the request, beyond rounding in the last digits.

        Raises:
            UserError: no list of histories, k is no positive integer, no id is of the catalogue's type, an event
                without item_id, with a timestamp that is none, or with a misspelt key, a filter that can't be read.
        """
        known = self._known(histories, context)
        allowed = self._filter.allowed(filters, include, exclude)
        caps = self._filter.caps(max_per)
        wish = _Wish(positive(k), exclude_seen, caps, *check_exploration(exploration, seed))
        return self._answer(self._encode(known), known, allowed, wish)

    def recommend_encoded(
        self, histories: Sequence[Sequence[ItemId]], codes: Sequence[Sequence[Sequence[int]]], k: int = 20
    ) -> Recommendations:
        """As `recommend`, for histories of item ids with the codes [K] of the event inputs for each of them."""
        ids, length = flatten(histories)
        sizes = list(self._bundle.inputs.values())
        rows = [row for history in codes for row in history]
        try:
            table = np.array(rows, dtype=np.int64).reshape(len(ids), len(sizes))
        except ValueError:
            raise UserError(f"the codes are not one for each of {len(ids)} items and {len(sizes)} inputs") from None
        if ((table < 0) | (table >= sizes)).any():
            raise UserError(f"a code is outside its input's range; expected 0 to less than {sizes}")
        known = known_events(self._catalogue, ids, table, length)
        return self._answer(self._encode(known), known, None, _Wish(positive(k)))

    def similar_items(
        self,
        items: Sequence[ItemId],
        k: int = 20,
        *,
        filters: Mapping[str, Any] | None = None,
        include: Sequence[ItemId] | None = None,
        exclude: Sequence[ItemId] | None = None,
        max_per: Mapping[str, int] | None = None,
    ) -> Recommendations:
        """The k items whose vectors are nearest to each item's, by the model's similarity, and not the item itself.

        An item that the catalogue does not have gets the items most frequent in training, with NaN for scores.
        For k, filters, include, exclude and max_per see `recommend`, also for errors.
        """
        index = self._catalogue.item_index(as_list(items, "items", ITEMS), "items")
        found = index != PAD
        known = Known(index[found], np.zeros((int(found.sum()), 0), np.int64), found.astype(np.int64))
        queries = np.full((len(index), self._bundle.vectors.shape[1]), np.nan, dtype=np.float32)
        queries[found] = self._bundle.vectors[known.item_index - 1]
        allowed = self._filter.allowed(filters, include, exclude)
        return self._answer(queries, known, allowed, _Wish(positive(k), True, self._filter.caps(max_per)))

    def audience(self, items: Sequence[ItemId], histories: Sequence[Sequence[ItemId | Event]], k: int = 20) -> Audience:
        """The k histories of the request, as of users or sessions, that have the highest score with each item.

        Histories of which nothing is known are in no audience, and an item that the catalogue does not have has none.
        Memory: the scores of all histories with all items of the request.
        """
        index = self._catalogue.item_index(as_list(items, "items", ITEMS), "items")
        users = self.encode(histories)
        k = min(positive(k), len(users))
        known = np.flatnonzero(~np.isnan(users[:, 0]))
        scores = self._bundle.vectors[np.maximum(index - 1, 0)] @ users[known].T  # [items, known]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        padded = np.full((len(index), k), np.nan, dtype=np.float32)
        padded[:, : best.shape[1]] = np.take_along_axis(scores, best, axis=1)
        padded[index == PAD] = np.nan
        rows = [known[row].tolist() if item != PAD else [] for row, item in zip(best, index, strict=True)]
        return Audience(rows, padded)

    def encode(self, histories: Sequence[Sequence[ItemId | Event]], context: Mapping[str, Any] | None = None) -> Floats:
        """[Q, D] the user vectors after histories (see `recommend`); NaN where nothing of one is known."""
        return self._encode(self._known(histories, context))

    def _known(self, histories: Any, context: Mapping[str, Any] | None) -> Known:
        events, length = flatten(histories)
        shared = as_context(context)
        if not shared and not any(issubclass(kind, Mapping) for kind in set(map(type, events))):
            codes = np.zeros((len(events), len(self.inputs)), dtype=np.int64)
            return known_events(self._catalogue, events, codes, length)
        rows = [{**shared, **(event if isinstance(event, Mapping) else {ITEM_ID: event})} for event in events]
        ids = item_ids(rows)
        first = np.zeros(len(rows), dtype=bool)
        first[(np.cumsum(length) - length)[length > 0]] = True
        return known_events(self._catalogue, ids, self._bundle.encoder.codes(rows, first), length)

    def _encode(self, known: Known) -> Floats:
        """[Q, D]; NaN where nothing is known."""
        bundle = self._bundle
        max_length = int(bundle.manifest["max_length"])
        return encode_histories(bundle.tower, bundle.history_vectors, known, max_length)

    def _answer(
        self, queries: Floats, known: Known, allowed: npt.NDArray[np.bool_] | None, wish: "_Wish"
    ) -> Recommendations:
        """Answers to queries [Q, D], NaN where nothing is known; `known` says what each has seen."""
        size = len(self._catalogue.ids) if allowed is None else int(np.count_nonzero(allowed))
        k = min(wish.k, size)
        if wish.is_plain or k == 0:  # as most requests are: whole arrays
            scores, rows = self._rank(queries, k, allowed)
            return Recommendations(self._catalogue.ids[rows].tolist(), scores)
        wanted = k * POOL if wish.exploration else k
        seen = np.split(known.item_index - 1, known.end[:-1])
        most_seen = int(known.length.max(initial=0)) if wish.exclude_seen else 0
        most = min(size, max(wanted + most_seen, CANDIDATES))
        fetch = most_seen + wanted * (4 if wish.caps else 1)
        ids: list[list[ItemId]] = [[] for _ in queries]
        scores = np.full((len(queries), k), np.nan, dtype=np.float32)
        pending = np.arange(len(queries))
        while len(pending):
            fetch = min(fetch, most)
            short = []
            for query, row_scores, rows in zip(pending, *self._rank(queries[pending], fetch, allowed), strict=True):
                places = np.flatnonzero(~np.isin(rows, seen[query])) if wish.exclude_seen else np.arange(fetch)
                if wish.caps:
                    places = places[at_most(rows[places], wish.caps, wanted)]
                if len(places) < wanted and fetch < most:
                    short.append(query)
                    continue
                if wish.exploration:
                    random = np.random.default_rng(wish.seed)
                    novel = self._novelty[rows[places]]
                    places = places[explore(len(places), k, wish.exploration, random, novel)]
                places = places[:k]
                ids[query] = self._catalogue.ids[rows[places]].tolist()
                scores[query, : len(places)] = row_scores[places]
            pending = np.array(short, dtype=np.int64)
            fetch *= 4
        return Recommendations(ids, scores)

    def _rank(self, queries: Floats, k: int, allowed: npt.NDArray[np.bool_] | None) -> tuple[Floats, Ints]:
        """[Q, k] scores and rows of the best of the allowed; where nothing is known, the popular ones and NaN."""
        unknown = np.isnan(queries[:, 0])
        if not unknown.any():
            return self._bundle.index.search(queries, k, allowed, self._threads)
        scores = np.full((len(queries), k), np.nan, dtype=np.float32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        rows[unknown] = (self._popular if allowed is None else self._popular[allowed[self._popular]])[:k]
        if not unknown.all():
            scores[~unknown], rows[~unknown] = self._bundle.index.search(queries[~unknown], k, allowed, self._threads)
        return scores, rows


class _Wish(NamedTuple):
    """What a request asks of its answers."""

    k: int
    exclude_seen: bool = False
    caps: Sequence[Cap] = ()
    exploration: float = 0.0
    seed: int | None = None

    @property
    def is_plain(self) -> bool:
        return not (self.exclude_seen or self.caps or self.exploration)


def main(arguments: list[str]) -> int:
    """Print recommendations for one history; 0: done, 2: the user can mend it."""
    if len(arguments) < 2:
        print("usage: python -m twotower.serving.retriever BUNDLE ITEM_ID [ITEM_ID ...]   (oldest first)")
        return 2
    try:
        retriever = Retriever.load(arguments[0])
        history = [_parse(text, retriever.id_type) for text in arguments[1:]]
        (ids,), (scores,) = retriever.recommend([history], k=10)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if np.isnan(scores[0]):
        print("no item of the history is in the catalogue; the most popular items:")
    width = max(7, *(len(str(item)) for item in ids))
    print(f"rank  {'item_id':<{width}}  score")
    for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1):
        print(f"{rank:>4}  {item!s:<{width}}  {'-' if np.isnan(score) else f'{score:.4f}'}")
    return 0


def _parse(text: str, id_type: type[int] | type[str]) -> ItemId:
    try:
        return id_type(text)
    except ValueError:
        raise UserError(f"{text!r} is not an item id: the ids of this catalogue are integers") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
