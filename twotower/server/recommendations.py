"""Answer recommend requests: stored events, the bundle's answer, reasons, impressions.

Shapes: Q queries, answered together where they ask for the same.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID
from twotower.server.live_models import LiveModel
from twotower.server.requests import Recommend
from twotower.server.store.event_store import EventStore, StoreUnavailable
from twotower.serving.answers import Recommendations

log = logging.getLogger(__name__)
NOT_REACHED = "user events are not reachable"
OPTIONS = ("context", "filters", "include", "exclude", "max_per")  # a request that has one is answered alone


class Query(NamedTuple):
    """A checked request, and the model that answers it."""

    request: Recommend
    model: LiveModel
    request_id: str


def answer_all(queries: Sequence[Query], store: EventStore) -> list[dict[str, Any] | Exception]:
    """Return the answer of each query as JSON, or the UserError that it ends with.

    Stored events are read in one call; where they can't be reached, answers are made without, and say so.
    """
    users = [query.request.user_id for query in queries if query.request.user_id is not None]
    degraded: list[str] = []
    stored: dict[str, list[dict[str, Any]]] = {}
    if users:
        try:
            stored = dict(zip(users, store.histories(users), strict=True))
        except StoreUnavailable:
            degraded = [NOT_REACHED]
    histories = [
        [*_usable(stored.get(q.request.user_id or "", []), q.model), *(q.request.history or [])] for q in queries
    ]
    groups: dict[Any, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(_same(place, query), []).append(place)
    answers: list[dict[str, Any] | Exception] = [UserError("")] * len(queries)
    for places in groups.values():
        for place, answer in zip(places, _answer_group(queries, histories, places), strict=True):
            if degraded and isinstance(answer, dict) and queries[place].request.user_id is not None:
                answer["degraded"] = degraded
            answers[place] = answer
    return answers


def _usable(events: Sequence[dict[str, Any]], model: LiveModel) -> list[dict[str, Any]]:
    """Stored events with the keys that this model uses: those of others must not hinder an answer."""
    used = model.bundle.encoder.used
    return [{key: value for key, value in event.items() if key in used} for event in events]


def _same(place: int, query: Query) -> Any:
    """What is equal for queries that one call of a model can answer."""
    request = query.request
    if request.exploration or any(getattr(request, name) is not None for name in OPTIONS):
        return place
    objective = request.objective
    asked = tuple(sorted(objective.items())) if isinstance(objective, dict) else objective
    return id(query.model), request.k, request.exclude_seen, asked, request.timestamp is not None


def _answer_group(
    queries: Sequence[Query], histories: Sequence[list[Any]], places: Sequence[int]
) -> list[dict[str, Any] | Exception]:
    first = queries[places[0]]
    asked, retriever = first.request, first.model.retriever
    arguments: dict[str, Any] = {name: getattr(asked, name) for name in (*OPTIONS, "k", "objective", "exclude_seen")}
    arguments |= {"exploration": asked.exploration, "seed": asked.seed}
    times = [queries[place].request.timestamp for place in places]
    if retriever.bundle.manifest.get("query_time", False):
        now = int(time.time() * 1000)
        times = [now if each is None else each for each in times]
    if any(each is not None for each in times):
        arguments["timestamp"] = times
    try:
        result = retriever.recommend([histories[place] for place in places], **arguments)
    except RecursionError:
        return [UserError("filters are nested too deeply; expected a few levels")]
    except UserError as error:
        if len(places) == 1:
            return [error]
        return [answer for place in places for answer in _answer_group(queries, histories, [place])]
    scores = result.scores.tolist()
    answers: list[dict[str, Any] | Exception] = []
    for row, place in enumerate(places):
        query, history = queries[place], histories[place]
        answer = _as_json(result, scores[row], row, query)
        if query.request.explain:
            _add_reasons(answer, query, history, times[row])
        parameters = {name: value for name, value in arguments.items() if value and name != "timestamp"}
        parameters |= {} if times[row] is None else {"timestamp": times[row]}
        _keep_impression(query, history, result, row, parameters)
        answers.append(answer)
    return answers


def _keep_impression(
    query: Query, history: Sequence[Any], result: Recommendations, row: int, parameters: dict[str, Any]
) -> None:
    """Log what is shown to a user whose bucket was drawn.

    Where the folder can't be written to, the rows wait, and the user gets the answer.
    """
    impressions, user = query.model.impressions, query.request.user_id
    if impressions is None or user is None or query.request.bucket is not None:
        return
    try:
        impressions.write(
            user, history, result, row,
            parameters=parameters, bucket=query.model.bucket, request_id=query.request_id,
        )  # fmt: skip
    except UserError as error:
        log.error("%s", error)


def _as_json(result: Recommendations, scores: list[float], row: int, query: Query) -> dict[str, Any]:
    ids = result.ids[row]
    is_fallback = bool(ids) and scores[0] != scores[0]  # NaN: the most frequent items
    items: list[dict[str, Any]] = [
        {ITEM_ID: item, "score": None if score != score else score} for item, score in zip(ids, scores, strict=False)
    ]
    if result.propensities is not None:
        for item, probability in zip(items, result.propensities[row].tolist(), strict=False):
            item["probability"] = probability
    model = query.model
    return {
        "items": items,
        "is_fallback": is_fallback,
        "model": model.name,
        "bucket": model.bucket,
        "request_id": query.request_id,
    }


def _add_reasons(answer: dict[str, Any], query: Query, history: Sequence[Any], timestamp: int | None) -> None:
    """Give each item the share of each event of the history in its score, the largest first; none of 0."""
    items = answer["items"]
    if answer["is_fallback"] or not items:
        for item in items:
            item["reasons"] = []
        return
    request = query.request
    shares = query.model.retriever.explain(
        [history], [[item[ITEM_ID] for item in items]], request.context, request.objective, timestamp
    )[0]
    events = [event if isinstance(event, dict) else {ITEM_ID: event} for event in history]
    for item, row in zip(items, shares.tolist(), strict=True):
        reasons = [
            {
                ITEM_ID: event[ITEM_ID],
                **({EVENT_TYPE: event[EVENT_TYPE]} if event.get(EVENT_TYPE) else {}),
                "share": share,
            }
            for event, share in zip(events, row, strict=True)
            if share
        ]
        item["reasons"] = sorted(reasons, key=lambda reason: -abs(reason["share"]))
