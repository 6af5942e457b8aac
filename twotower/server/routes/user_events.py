"""Users' events: keep them, show them, erase them."""

import time
from collections.abc import Sequence

from fastapi import APIRouter, Response

from twotower.core.schema import TIMESTAMP, USER_ID
from twotower.server import metrics, requests
from twotower.server.errors import Refused
from twotower.server.json_route import json_response, new_router
from twotower.server.requests import CHAMPION
from twotower.server.state import State
from twotower.serving.event_encoder import Event, EventEncoder

AHEAD_MS = 86_400_000  # that a client's clock may be ahead


def user_event_routes(state: State) -> APIRouter:
    """Return `POST /events`, and `GET` and `DELETE /users/ID`."""
    router = new_router()

    @router.post("/events", response_model=requests.Stored, summary="Keep events of users")
    async def events(body: requests.NewEvents) -> Response:
        now = int(time.time() * 1000)
        kept, refused = [], 0
        for event in body.events:
            values = event.model_dump(exclude_none=True)
            consent = values.pop("consent", True)
            if consent:
                user = values.pop(USER_ID)
                kept.append((user, {**values, TIMESTAMP: values.get(TIMESTAMP, now)}))
            else:
                refused += 1
        check_events(state.models[CHAMPION].bundle.encoder, [event for _, event in kept], now)
        if kept:
            state.store.add(kept)
        metrics.events.labels("stored").inc(len(kept))
        metrics.events.labels("no consent").inc(refused)
        unknown = state.models[CHAMPION].retriever.unknown_in([[event for _, event in kept]])
        ignored = {"no consent": refused} if refused else {}
        return json_response({"stored": len(kept), "ignored": ignored, **({"unknown": unknown} if unknown else {})})

    @router.get("/users/{user_id:id}", summary="What is held of a user")
    async def user(user_id: str) -> Response:
        return json_response({USER_ID: user_id, "events": state.store.histories([user_id])[0]})

    @router.delete("/users/{user_id:id}", summary="Erase a user's events at once")
    async def erase(user_id: str) -> Response:
        return json_response({"erased": state.store.forget([user_id]) > 0})

    return router


def check_events(encoder: EventEncoder, events: Sequence[Event], now: int) -> None:
    """Raise UserError for a misspelt key, and Refused for a time to come: it would stay the newest of its user."""
    for example in {frozenset(event): event for event in events}.values():
        encoder.check_keys([example])
    for place, event in enumerate(events):
        if event[TIMESTAMP] > now + AHEAD_MS:
            message = f"the timestamp {event[TIMESTAMP]} is in the future; expected milliseconds since 1970"
            raise Refused(422, f"body.events.{place}.timestamp", message)
