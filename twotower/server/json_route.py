"""JSON in and out: strict parsing, and answers without a detour through models."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import register_url_convertor

from twotower.server.path_ids import PathId
from twotower.server.requests import Failure

JSON = "application/json"
FAILURES = {400: "Refused by the bundle", 401: "No token", 403: "Another role", 404: "Not there", 413: "Too large",
            415: "No JSON", 422: "Malformed", 429: "Too often", 503: "The store is not reachable"}  # fmt: skip
register_url_convertor("id", PathId())


class JsonRequest(Request):
    """Parses JSON strictly: no NaN, no half characters, no thousands of levels."""

    async def json(self) -> Any:
        """Return the body's content."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route whose requests are JsonRequests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the strict parser."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


def new_router() -> APIRouter:
    """Return a router whose routes read JSON strictly and are described with the errors that they may answer with."""
    failures: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure, "description": words} for status, words in FAILURES.items()
    }
    return APIRouter(route_class=JsonRoute, responses=failures, redirect_slashes=False)


def json_response(content: Any) -> Response:
    """Return content as JSON."""
    return Response(orjson.dumps(content), media_type=JSON)
