"""What is asked of a model: the next items, similar items, an audience."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from twotower.core.schema import ITEM_ID, USER_ID
from twotower.server import metrics, requests
from twotower.server.batching import Batcher
from twotower.server.errors import Refused
from twotower.server.json_route import json_response, new_router
from twotower.server.recommendations import Query, answer_all
from twotower.server.state import State


def answer_routes(state: State) -> APIRouter:
    """Return `POST /recommend`, `/similar` and `/audience`."""
    router = new_router()
    answer_together = partial(answer_all, store=state.store)
    batcher: Batcher[Query, dict[str, Any]] = Batcher(answer_together, metrics.batch_size.observe)

    @router.post("/recommend", response_model=requests.Answer, summary="The next items of a user or after a history")
    async def recommend(body: requests.Recommend, request: Request) -> Response:
        model = state.model_of(body.bucket, body.user_id)
        answer = await batcher.ask(Query(body, model, request.scope["request_id"]))
        metrics.answers.labels(model.bucket, "fallback" if answer["is_fallback"] else "model").inc()
        return json_response(answer)

    @router.post("/similar", response_model=requests.Answer, summary="Items like one")
    async def similar(body: requests.Similar, request: Request) -> Response:
        model = state.model_of(body.bucket)
        limits = {name: getattr(body, name) for name in ("filters", "include", "exclude", "max_per")}
        ids, scores, *_ = model.retriever.similar_items([body.item_id], body.k, **limits)
        if not ids[0] and scores[0, :1].tolist() != scores[0, :1].tolist():
            raise Refused(404, "body.item_id", f"the bundle has no item {str(body.item_id)[:100]!r}")
        items = [{ITEM_ID: i, "score": score} for i, score in zip(ids[0], scores[0].tolist(), strict=False)]
        return json_response({"items": items, "model": model.name, "request_id": request.scope["request_id"]})

    @router.post("/audience", response_model=requests.AudienceAnswer, summary="Stored users for an item")
    async def audience(body: requests.Audience, request: Request) -> Response:
        model = state.model_of(body.bucket)

        if model.retriever.unknown_in([[body.item_id]]):
            raise Refused(404, "body.item_id", f"the bundle has no item {str(body.item_id)[:100]!r}")

        def answer() -> list[dict[str, Any]]:
            users = state.store.recent(requests.USERS) if body.user_ids is None else body.user_ids
            if not users:
                return []
            found = model.retriever.audience([body.item_id], state.store.histories(users), body.k, body.objective)
            pairs = zip(found.histories[0], found.scores[0].tolist(), strict=False)
            return [{USER_ID: users[row], "score": score} for row, score in pairs]

        users = await state.in_thread(answer)
        return json_response({"users": users, "model": model.name, "request_id": request.scope["request_id"]})

    return router
