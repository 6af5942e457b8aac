"""The HTTP service of a bundle: events in, answers out. See docs/how-to/live.md.

Routes check and translate; what they answer comes from recommendations, search_items and the retriever. Each worker
process has an application of its own; they share the store of user events, the bundles' files and the metrics.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.convertors import register_url_convertor
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from twotower.core.errors import UserError
from twotower.core.schema import ITEM_ID, TIMESTAMP, USER_ID
from twotower.server import metrics, requests
from twotower.server.batching import Batcher
from twotower.server.errors import Refused, body_of, invalid
from twotower.server.item_map import ItemMap
from twotower.server.live_models import LiveModel, LiveModels
from twotower.server.locations import rollback
from twotower.server.openapi import describe
from twotower.server.path_ids import PathId
from twotower.server.recommendations import NOT_REACHED, Query, answer_all
from twotower.server.requests import CHALLENGER, CHAMPION
from twotower.server.search_items import ItemSearch
from twotower.server.store.event_store import EventStore, StoreUnavailable
from twotower.serving.buckets import bucket_of
from twotower.serving.updates import delta

log = logging.getLogger(__name__)
LOOK_S = 0.25  # between two looks at the location files and manifests
FLUSH_S = 10.0  # between two files of impressions
PAGE = Path(__file__).parent / "page"
JSON = "application/json"
KEYS = {  # of requests, for messages
    "/recommend": list(requests.Recommend.model_fields),
    "/similar": list(requests.Similar.model_fields),
    "/audience": list(requests.Audience.model_fields),
    "/map": list(requests.Whom.model_fields),
    "/events": list(requests.NewEvents.model_fields),
    "/items": [*requests.Items.model_fields, *requests.ItemIds.model_fields],
}
NAMES = ("name", "title", "product_name")  # columns that people know an item by
register_url_convertor("id", PathId())


@dataclass(frozen=True)
class Experiment:
    """The share of users that the challenger answers.

    >>> Experiment("new-model", 0.0).bucket("user-1")
    'champion'
    """

    salt: str
    share: float

    def bucket(self, user_id: str | None) -> str:
        """Return the bucket of a user; requests without one are the champion's."""
        if user_id is None or not self.share:
            return CHAMPION
        return bucket_of(user_id, self.salt, {CHALLENGER: self.share, CHAMPION: 1 - self.share})


class _JsonRequest(Request):
    """Parses JSON strictly: no NaN, no half characters, no thousands of levels."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _PerModel:
    """What is made from a model once, at the first request that needs it."""

    def __init__(self, make: Callable[[LiveModel], Any]) -> None:
        self._make, self._made = make, (None, None)

    def of(self, model: LiveModel) -> Any:
        if self._made[0] is not model:
            self._made = (model, self._make(model))  # type: ignore[assignment]
        return self._made[1]


def create_app(
    models: LiveModels,
    store: EventStore,
    experiment: Experiment,
    locations: dict[str, Path],
    has_page: bool = False,
    is_signed: bool = False,
) -> FastAPI:
    """Return the application.

    Args:
        models: that answer.
        store: of user events.
        experiment: which users the challenger answers.
        locations: bucket -> its location file, for `POST /rollback`.
        has_page: serve the page at `/`.
        is_signed: bundles must be signed, so none is changed here.
    """
    batcher: Batcher[Query, dict[str, Any]] = Batcher(partial(answer_all, store=store), metrics.batch_size.observe)
    searches = {bucket: _PerModel(lambda model: ItemSearch(model.columns)) for bucket in models.buckets}
    maps = {bucket: _PerModel(_map_of) for bucket in models.buckets}
    documents = _PerModel(lambda model: describe(app, model))
    heavy = asyncio.Semaphore(1)  # what takes longer than a few milliseconds runs in a thread, one at a time

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        task = asyncio.create_task(_watch(models, store))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            models.flush()
            store.close()

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
    app.router.route_class = _JsonRoute
    post = partial(app.post, responses=_responses())
    get = partial(app.get, responses=_responses())
    delete = partial(app.delete, responses=_responses())

    def model_of(bucket: str | None, user_id: str | None = None) -> LiveModel:
        wanted = bucket or experiment.bucket(user_id)
        if wanted not in models:
            raise Refused(404, "body.bucket", f"there is no {wanted}; the server has {', '.join(models.buckets)}")
        return models[wanted]

    def require_changeable() -> None:
        if is_signed:
            message = "this server requires signed bundles, and what it made itself would have no signature"
            raise Refused(403, "server", f"{message}; run twotower delta and twotower sign where the key is")

    async def in_thread(call: Callable[[], Any]) -> Any:
        async with heavy:
            return await asyncio.to_thread(call)

    @post("/recommend", response_model=requests.Answer, summary="The next items of a user or after a history")
    async def recommend(body: requests.Recommend, request: Request) -> Response:
        model = model_of(body.bucket, body.user_id)
        answer = await batcher.ask(Query(body, model, request.scope["request_id"]))
        metrics.answers.labels(model.bucket, "fallback" if answer["is_fallback"] else "model").inc()
        return _json(answer)

    @post("/similar", response_model=requests.Answer, summary="Items like one")
    async def similar(body: requests.Similar, request: Request) -> Response:
        model = model_of(body.bucket)
        limits = {name: getattr(body, name) for name in ("filters", "include", "exclude", "max_per")}
        ids, scores, *_ = model.retriever.similar_items([body.item_id], body.k, **limits)
        if not ids[0] and scores[0, :1].tolist() != scores[0, :1].tolist():
            raise Refused(404, "body.item_id", f"the bundle has no item {str(body.item_id)[:100]!r}")
        items = [{ITEM_ID: i, "score": score} for i, score in zip(ids[0], scores[0].tolist(), strict=False)]
        return _json({"items": items, "model": model.name, "request_id": request.scope["request_id"]})

    @post("/audience", response_model=requests.AudienceAnswer, summary="Stored users for an item")
    async def audience(body: requests.Audience, request: Request) -> Response:
        model = model_of(body.bucket)

        def answer() -> list[dict[str, Any]]:
            users = store.recent(requests.USERS) if body.user_ids is None else body.user_ids
            if not users:
                return []
            found = model.retriever.audience([body.item_id], store.histories(users), body.k, body.objective)
            pairs = zip(found.histories[0], found.scores[0].tolist(), strict=False)
            return [{USER_ID: users[row], "score": score} for row, score in pairs]

        users = await in_thread(answer)
        return _json({"users": users, "model": model.name, "request_id": request.scope["request_id"]})

    @post("/events", response_model=requests.Stored, summary="Keep events of users")
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
        if kept:
            store.add(kept)
        metrics.events.labels("stored").inc(len(kept))
        metrics.events.labels("no consent").inc(refused)
        return _json({"stored": len(kept), "ignored": {"no consent": refused} if refused else {}})

    @get("/users/{user_id:id}", summary="What is held of a user")
    async def user(user_id: str) -> Response:
        return _json({USER_ID: user_id, "events": store.histories([user_id])[0]})

    @delete("/users/{user_id:id}", summary="Erase a user's events at once")
    async def erase(user_id: str) -> Response:
        return _json({"erased": store.forget([user_id]) > 0})

    @get("/items", summary="Search the catalogue")
    async def items(search: str = "", limit: requests.Limit = 20, bucket: requests.Bucket = CHAMPION) -> Response:
        model = model_of(bucket)
        found, total = await in_thread(lambda: searches[model.bucket].of(model).search(search[:200], limit))
        return _json({"items": found, "total": total})

    @get("/items/{item_id:id}", summary="An item and its features")
    async def item(item_id: str, bucket: requests.Bucket = CHAMPION) -> Response:
        model = model_of(bucket)
        is_number = model.retriever.id_type is int and item_id.lstrip("-").isdecimal() and len(item_id) < 20
        key: int | str = int(item_id) if is_number else item_id
        found = await in_thread(lambda: searches[model.bucket].of(model).item(key))
        if found is None:
            raise Refused(404, "path.item_id", f"the bundle has no item {item_id[:100]!r}")
        return _json(found)

    @post("/items", summary="Add items, or change their features: a new version of the champion")
    async def upsert(body: requests.Items) -> Response:
        try:
            table = pa.Table.from_pylist(body.items)
        except pa.ArrowException as error:
            expected = "expected one type for each key"
            raise Refused(422, "body.items", f"the items are no table: {error}; {expected}") from None
        require_changeable()
        return _json(await in_thread(lambda: _changed(delta.upsert(models.folder(CHAMPION), table), models)))

    @delete("/items", summary="Remove items: a new version of the champion")
    async def remove(body: requests.ItemIds) -> Response:
        require_changeable()
        return _json(await in_thread(lambda: _changed(delta.remove(models.folder(CHAMPION), body.item_ids), models)))

    @get("/model", summary="The models that answer, and what requests may hold")
    async def model() -> Response:
        try:
            users = store.size()
        except StoreUnavailable:
            users = None
        shares = {CHAMPION: 1 - experiment.share, CHALLENGER: experiment.share}
        facts = [_facts(models[bucket], shares[bucket]) for bucket in models.buckets]
        return _json({"models": facts, "store": {"users": users}})

    @get("/map", summary="Items on a plane")
    async def item_map(bucket: requests.Bucket = CHAMPION) -> Response:
        model = model_of(bucket)
        return _json(await in_thread(lambda: _points(maps[model.bucket].of(model), model)))

    @post("/map", summary="A user's place on the map")
    async def place(body: requests.Whom) -> Response:
        model = model_of(body.bucket, body.user_id)
        stored = store.histories([body.user_id])[0] if body.user_id is not None else []
        history = [*stored, *(body.history or [])]
        vectors = model.retriever.encode([history], body.context, body.objective)
        x, y = (await in_thread(lambda: maps[model.bucket].of(model))).place(vectors)[0].tolist()
        return _json({"x": x, "y": y} if x == x else {"x": None, "y": None})

    @post("/rollback", summary="Back to the champion before")
    async def back() -> Response:
        def change() -> str:
            rollback(locations[CHAMPION])
            models.refresh()
            return models[CHAMPION].name

        return _json({"model": await in_thread(change)})

    @get("/health", summary="The process lives")
    async def health() -> Response:
        return _json({"status": "ok"})

    @get("/ready", summary="Requests can be answered")
    async def ready() -> Response:
        try:
            store.check()
        except StoreUnavailable:
            return _json({"status": "degraded", "reason": NOT_REACHED})
        return _json({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    async def all_metrics() -> Response:
        return Response(await in_thread(metrics.exposition), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(documents.of(models[CHAMPION]))

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> Response:
        return _failure(request, 400, "body", str(error))

    @app.exception_handler(StoreUnavailable)
    async def unreachable(request: Request, error: StoreUnavailable) -> Response:
        return _failure(request, 503, "store", f"{NOT_REACHED}; nothing was stored, try again")

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

    if has_page:
        app.mount("/page", StaticFiles(directory=PAGE))

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return Response((PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    return app


async def _watch(models: LiveModels, store: EventStore) -> None:
    """Look for new models, count what was unknown, and write impressions, as long as the worker lives."""
    flushed = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            await asyncio.to_thread(models.refresh)
            for bucket in models.buckets:
                count_unknown(models[bucket])
            metrics.store_up.set(await asyncio.to_thread(_answers, store))
            if time.monotonic() - flushed > FLUSH_S:
                flushed = time.monotonic()
                await asyncio.to_thread(models.flush)
        except Exception:  # whatever it is, the next look may go well
            log.exception("looking for new models failed; it goes on")


def _answers(store: EventStore) -> bool:
    try:
        store.check()
    except StoreUnavailable:
        return False
    return True


def count_unknown(model: LiveModel) -> None:
    """Add to the metrics what the retriever has counted since the last time."""
    for kind, number in model.retriever.unknown.items():
        metrics.unknown.labels(kind).inc(number - model.counted.get(kind, 0))
        model.counted[kind] = number


def _changed(report: delta.DeltaReport, models: LiveModels) -> dict[str, Any]:
    models.refresh()
    names = ("version", "num_items", "added", "changed", "unchanged", "removed")
    counts = {name: getattr(report, name) for name in names}
    return {**counts, "unknown": list(report.unknown), "ignored": list(report.ignored)}


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


def _map_of(model: LiveModel) -> ItemMap:
    return ItemMap.of(model.bundle.vectors, model.bundle.train_count)


def _points(item_map: ItemMap, model: LiveModel) -> dict[str, Any]:
    places = item_map.place(model.bundle.vectors[item_map.rows]).round(4).tolist()
    shown = model.columns.take(pa.array(item_map.rows))
    name = next((name for name in NAMES if name in shown.column_names), ITEM_ID)
    labels = zip(places, shown[ITEM_ID].to_pylist(), shown[name].to_pylist(), strict=True)
    return {
        "points": [[x, y, i, str(i if n is None else n)] for (x, y), i, n in labels],
        "explained": item_map.explained,
    }


def _responses() -> dict[int | str, dict[str, Any]]:
    words = {400: "Refused by the bundle", 401: "No token", 403: "Another role", 404: "Not there", 413: "Too large",
             415: "No JSON", 422: "Malformed", 429: "Too often", 503: "The store is not reachable"}  # fmt: skip
    return {status: {"model": requests.Failure, "description": text} for status, text in words.items()}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type=JSON)


def _failure(request: Request, status: int, where: str, message: str) -> Response:
    headers = {"retry-after": "1"} if status == 503 else None
    return Response(body_of(message, where, request.scope["request_id"]), status, headers, JSON)
