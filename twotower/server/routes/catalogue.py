"""The catalogue: search it, see it on a plane, change it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import APIRouter, Request, Response

from twotower.core.schema import ITEM_ID
from twotower.server import requests
from twotower.server.errors import Refused
from twotower.server.item_map import ItemMap
from twotower.server.json_route import json_response, new_router
from twotower.server.live_models import LiveModel
from twotower.server.requests import CHAMPION
from twotower.server.search_items import ItemSearch
from twotower.server.state import PerModel, State
from twotower.serving.updates import delta

SEARCH = {"search", "limit", "bucket"}  # parameters
NAMES = ("name", "title", "product_name")  # columns that people know an item by


def catalogue_routes(state: State) -> APIRouter:
    """Return `GET`, `POST` and `DELETE /items`, `GET /items/ID`, and `GET` and `POST /map`."""
    router = new_router()
    searches = PerModel(lambda model: ItemSearch(model.columns))
    maps = PerModel(lambda model: ItemMap.of(model.bundle.vectors, model.bundle.train_count))

    async def changed(change: Callable[[Path], delta.DeltaReport]) -> dict[str, Any]:
        if state.is_signed:
            message = "this server requires signed bundles, and what it made itself would have no signature"
            raise Refused(403, "server", f"{message}; run twotower delta and twotower sign where the key is")
        report = await state.in_thread(lambda: change(state.models.folder(CHAMPION)))
        await state.in_thread(state.models.refresh)
        return _as_json(report)

    @router.get("/items", summary="Search the catalogue")
    async def items(
        request: Request, search: str = "", limit: requests.Limit = 20, bucket: requests.Bucket = CHAMPION
    ) -> Response:
        if strange := sorted(set(request.query_params) - SEARCH):
            message = f"the parameter {strange[0][:100]!r} is unknown; expected one of {', '.join(sorted(SEARCH))}"
            raise Refused(422, "query", message)
        model = state.model_of(bucket)
        found, total = await state.in_thread(lambda: searches.of(model).search(search[:200], limit))
        return json_response({"items": found, "total": total})

    @router.get("/items/{item_id:id}", summary="An item and its features")
    async def item(item_id: str, bucket: requests.Bucket = CHAMPION) -> Response:
        model = state.model_of(bucket)
        is_number = model.retriever.id_type is int and item_id.lstrip("-").isdecimal() and len(item_id) < 20
        key: int | str = int(item_id) if is_number else item_id
        found = await state.in_thread(lambda: searches.of(model).item(key))
        if found is None:
            raise Refused(404, "path.item_id", f"the bundle has no item {item_id[:100]!r}")
        return json_response(found)

    @router.post("/items", summary="Add items, or change their features: a new version of the champion")
    async def upsert(body: requests.Items) -> Response:
        try:
            table = pa.Table.from_pylist(body.items)
        except pa.ArrowException as error:
            expected = "expected one type for each key"
            raise Refused(422, "body.items", f"the items are no table: {error}; {expected}") from None
        return json_response(await changed(lambda bundle: delta.upsert(bundle, table)))

    @router.delete("/items", summary="Remove items: a new version of the champion")
    async def remove(body: requests.ItemIds) -> Response:
        return json_response(await changed(lambda bundle: delta.remove(bundle, body.item_ids)))

    @router.get("/map", summary="Items on a plane")
    async def item_map(bucket: requests.Bucket = CHAMPION) -> Response:
        model = state.model_of(bucket)
        return json_response(await state.in_thread(lambda: _points(maps.of(model), model)))

    @router.post("/map", summary="A user's place on the map")
    async def place(body: requests.Whom) -> Response:
        model = state.model_of(body.bucket, body.user_id)
        stored = state.store.histories([body.user_id])[0] if body.user_id is not None else []
        history = [*stored, *(body.history or [])]
        vectors = model.retriever.encode([history], body.context, body.objective)
        x, y = (await state.in_thread(lambda: maps.of(model))).place(vectors)[0].tolist()
        return json_response({"x": x, "y": y} if x == x else {"x": None, "y": None})

    return router


def _as_json(report: delta.DeltaReport) -> dict[str, Any]:
    names = ("version", "num_items", "added", "changed", "unchanged", "removed")
    counts = {name: getattr(report, name) for name in names}
    return {**counts, "unknown": list(report.unknown), "ignored": list(report.ignored)}


def _points(item_map: ItemMap, model: LiveModel) -> dict[str, Any]:
    places = item_map.place(model.bundle.vectors[item_map.rows]).round(4).tolist()
    shown = model.columns.take(pa.array(item_map.rows))
    name = next((name for name in NAMES if name in shown.column_names), ITEM_ID)
    labels = zip(places, shown[ITEM_ID].to_pylist(), shown[name].to_pylist(), strict=True)
    return {
        "points": [[x, y, i, str(i if n is None else n)] for (x, y), i, n in labels],
        "explained": item_map.explained,
    }
