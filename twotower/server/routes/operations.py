"""For those who run the server: which models answer, back to the one before, health, metrics."""

from typing import Any

from fastapi import APIRouter, Response

from twotower.server import metrics
from twotower.server.json_route import json_response, new_router
from twotower.server.live_models import LiveModel
from twotower.server.locations import rollback
from twotower.server.recommendations import NOT_REACHED
from twotower.server.requests import CHALLENGER, CHAMPION
from twotower.server.state import State
from twotower.server.store.event_store import StoreUnavailable

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def operation_routes(state: State) -> APIRouter:
    """Return `GET /model`, `/health`, `/ready` and `/metrics`, and `POST /rollback`."""
    router = new_router()

    @router.get("/model", summary="The models that answer, and what requests may hold")
    async def model() -> Response:
        try:
            users = state.store.size()
        except StoreUnavailable:
            users = None
        shares = {CHAMPION: 1 - state.experiment.share, CHALLENGER: state.experiment.share}
        facts = [_facts(state.models[bucket], shares[bucket]) for bucket in state.models.buckets]
        return json_response({"models": facts, "store": {"users": users}})

    @router.post("/rollback", summary="Back to the champion before")
    async def back() -> Response:
        def change() -> str:
            rollback(state.locations[CHAMPION])
            state.models.refresh()
            return state.models[CHAMPION].name

        return json_response({"model": await state.in_thread(change)})

    @router.get("/health", summary="The process lives")
    async def health() -> Response:
        return json_response({"status": "ok"})

    @router.get("/ready", summary="Requests can be answered")
    async def ready() -> Response:
        try:
            state.store.check()
        except StoreUnavailable:
            return json_response({"status": "degraded", "reason": NOT_REACHED})
        return json_response({"status": "ok"})

    @router.get("/metrics", include_in_schema=False)
    async def all_metrics() -> Response:
        return Response(await state.in_thread(metrics.exposition), media_type=PROMETHEUS)

    return router


def _facts(model: LiveModel, share: float) -> dict[str, Any]:
    manifest = model.bundle.manifest
    return {
        "bucket": model.bucket,
        "model": model.name,
        "version": model.version,
        "share": share,
        **{name: manifest[name] for name in ("num_items", "dim", "similarity", "max_length")},
        "objectives": manifest.get("objectives", []),
        "query_time": manifest.get("query_time", False),
        "requests": manifest.get("requests", {}),
    }
