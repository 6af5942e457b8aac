"""The HTTP service of a bundle: events in, answers out. See docs/how-to/live.md.

Routes check and translate; what they answer comes from recommendations, search_items and the retriever. Each worker
process has an application of its own; they share the store of user events, the bundles' files and the metrics.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from starlette.staticfiles import StaticFiles

from twotower.server.failures import answer_failures
from twotower.server.json_route import json_response
from twotower.server.openapi import describe
from twotower.server.requests import CHAMPION
from twotower.server.routes.answers import answer_routes
from twotower.server.routes.catalogue import catalogue_routes
from twotower.server.routes.operations import operation_routes
from twotower.server.routes.user_events import user_event_routes
from twotower.server.state import PerModel, State
from twotower.server.watch import watch

PAGE = Path(__file__).parent / "page"


def create_app(state: State, has_page: bool = False) -> FastAPI:
    """Return the application.

    Args:
        state: models and users' events.
        has_page: serve the page at `/`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(watch(state.models, state.store))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            state.models.flush()
            state.store.close()

    app = FastAPI(
        title="twotower",
        version=version("twotower"),
        description="Recommendations that change with each event.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from other hosts
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # to an address that the Host header says
    )
    for routes in (answer_routes, user_event_routes, catalogue_routes, operation_routes):
        app.include_router(routes(state))
    documents: PerModel[dict[str, Any]] = PerModel(lambda model: describe(app, model))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return json_response(documents.of(state.models[CHAMPION]))

    answer_failures(app)
    if has_page:
        app.mount("/page", StaticFiles(directory=PAGE))

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return Response((PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    return app
