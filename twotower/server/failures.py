"""What is answered where a request fails: JSON with what arrived, what was expected, and where."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from twotower.core.errors import UserError
from twotower.server import requests
from twotower.server.errors import Refused, body_of, invalid
from twotower.server.json_route import JSON
from twotower.server.recommendations import NOT_REACHED
from twotower.server.store.event_store import StoreUnavailable

KEYS = {  # of requests, for messages
    "/recommend": list(requests.Recommend.model_fields),
    "/similar": list(requests.Similar.model_fields),
    "/audience": list(requests.Audience.model_fields),
    "/map": list(requests.Whom.model_fields),
    "/events": list(requests.NewEvents.model_fields),
    "/items": [*requests.Items.model_fields, *requests.ItemIds.model_fields],
}


def answer_failures(app: FastAPI) -> None:
    """Let an application answer each kind of failure."""

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> Response:
        return _failure(request, 400, "body", str(error))

    @app.exception_handler(StoreUnavailable)
    async def unreachable(request: Request, error: StoreUnavailable) -> Response:
        return _failure(request, 503, "store", f"{NOT_REACHED}; nothing was changed, try again")

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _failure(request, 422, *invalid(error, KEYS.get(request.scope["path"], [])))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        path, allowed = request.scope["path"][:100], {**(error.headers or {})}.get("Allow")
        expected = f"it answers to {allowed}" if allowed else "/openapi.json says what there is"
        return _failure(request, error.status_code, "path", f"{request.method} {path!r} is not there; {expected}")

    @app.exception_handler(Refused)
    async def refused_here(request: Request, error: Refused) -> Response:
        return _failure(request, error.status, error.where, error.message)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _failure(request, 500, "server", "the server failed; its log has the reason under this request id")


def _failure(request: Request, status: int, where: str, message: str) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(body_of(message, where, request.scope["request_id"]), status, headers, JSON)
