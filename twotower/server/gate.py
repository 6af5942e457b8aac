"""What every request passes before a route sees it: its size and time, its token, its share of the server.

A plain ASGI application around the FastAPI one. It also gives requests their id, counts and times them, and writes the
access log: one line of JSON each, with the route and never a path, an id of a person or a body.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import orjson

from twotower.server import metrics
from twotower.server.errors import body_of
from twotower.server.rate_limit import RateLimit
from twotower.server.tokens import Tokens, allows

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ACCESS_LOG = "twotower.access"
log = logging.getLogger(ACCESS_LOG)
BODY, BODY_S = 2**20, 10.0  # bytes of a body, and the seconds in which it must arrive
SINGLE = (b"authorization", b"content-length", b"content-type", b"content-encoding", b"host", b"origin")
LOOPBACK = re.compile(rb"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")
DISCARD, DISCARD_S = 16 * BODY, 1.0  # of a refused body that is read all the same
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
OPEN = ("/health", "/ready", "/openapi.json", "/", "/page")  # without a token
NEEDED = {  # the first part of a path -> role by method
    "events": {"POST": "write"},
    "recommend": {"POST": "read"},
    "similar": {"POST": "read"},
    "audience": {"POST": "read"},
    "items": {"GET": "read", "POST": "admin", "DELETE": "admin"},
    "users": {"GET": "write", "DELETE": "write"},
    "model": {"GET": "read"},
    "map": {"GET": "read", "POST": "read"},
    "metrics": {"GET": "read"},
    "rollback": {"POST": "admin"},
}
SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
]


class Gate:
    """Admits requests to `app`.

    Args:
        app: the routes.
        tokens: who may do what.
        rate: requests a second of one client, by its token or address; None: any number.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], tokens: Tokens, rate: float | None = None) -> None:
        self._app, self._tokens = app, tokens
        self._limit = RateLimit(rate) if rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["request_id"] = request_id
        status = 499  # the client has gone

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SAFE, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            refused = self._refusal(scope, headers)
            body = b""
            if refused is None and scope["method"] != "GET":
                body, refused = await _read(receive)
            if refused is not None:
                await _discard(receive, headers)
                await _refuse(refused, request_id, sending)
            else:
                await self._app(scope, _once(body, receive), sending)
        finally:
            route = getattr(scope.get("route"), "path_format", "none")
            seconds = time.perf_counter() - begin
            metrics.requests.labels(route, status).inc()
            metrics.request_seconds.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                line = {"id": request_id, "method": scope["method"], "route": route, "status": status}
                log.info("%s", orjson.dumps({**line, "ms": round(1000 * seconds, 2)}).decode())

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """The status, the place and the message of a refusal by the head alone."""
        if len(headers) < len(scope["headers"]):  # a proxy might have read another of them
            names = [name for name, _ in scope["headers"]]
            if twice := [name.decode() for name in SINGLE if names.count(name) > 1]:
                return 400, f"headers.{twice[0]}", "the header is there more than once; send it once"
        if self._tokens.are_absent and (refused := _foreign(headers)):
            return refused
        path, method = scope["path"], scope["method"]
        first = path.split("/", 2)[1] if path.startswith("/") else ""
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        role = self._tokens.role(authorization)
        client = authorization if role and authorization else (scope.get("client") or ("",))[0]
        if self._limit and (wait := self._limit.wait(client)):
            return 429, "headers", f"too many requests; try again in {wait:.2f} s"
        if path not in OPEN and first != OPEN[-1][1:]:
            needed = NEEDED.get(first, {}).get(method, "read")
            if role is None:
                return (
                    401,
                    "headers.authorization",
                    "expected `Authorization: Bearer TOKEN` with a token of this server",
                )
            if not allows(role, needed):
                return 403, "headers.authorization", f"the token has the role {role}; this takes {needed}"
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY:
            return 413, "body", f"the body has {length.decode('latin-1')[:20]} bytes; at most {BODY:,} are accepted"
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return 415, "headers.content-encoding", "the body is compressed; send it as it is"
        has_body = int(length) or b"transfer-encoding" in headers
        if has_body and not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
            return 415, "headers.content-type", "expected the content type application/json"
        return None


def _foreign(headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
    """Refuse what a page of another site makes a browser on this machine send to a server without tokens."""
    host, origin = headers.get(b"host", b"localhost"), headers.get(b"origin")
    if not LOOPBACK.fullmatch(host):
        arrived = f"the request is for the host {host.decode('latin-1')[:100]!r}"
        return 403, "headers.host", f"{arrived}; without --tokens the server answers to localhost and 127.0.0.1 alone"
    if origin is not None and origin.partition(b"://")[2] != host:
        arrived = f"the request is from a page of {origin.decode('latin-1')[:100]!r}"
        return 403, "headers.origin", f"{arrived}; without --tokens the server answers to its own page alone"
    return None


async def _read(receive: Receive) -> tuple[bytes, tuple[int, str, str] | None]:
    """Read a body, or return why it is refused."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return b"", (400, "body", "the connection ended within the body")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > BODY:
                    return b"", (413, "body", f"the body has more than {BODY:,} bytes; send less at once")
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts), None
    except TimeoutError:
        return b"", (408, "body", f"the body did not arrive within {BODY_S:g} s")


async def _discard(receive: Receive, headers: dict[bytes, bytes]) -> None:
    """Read the rest of a refused body, up to a bound: unread, it would reset the connection before its answer."""
    length = headers.get(b"content-length", b"0")
    is_waiting = b"expect" in headers  # for this, before it sends the body
    if is_waiting or not length.isdigit() or int(length) > DISCARD:
        return
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            while size < DISCARD:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def _once(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then what the connection brings."""
    is_first = True

    async def receiving() -> Message:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return receiving


async def _refuse(refused: tuple[int, str, str], request_id: str, send: Send) -> None:
    status, where, message = refused
    body = body_of(message, where, request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"connection", b"close"),
        (b"content-length", b"%d" % len(body)),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
