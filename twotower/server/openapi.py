"""The OpenAPI description of the server, with the event keys, known values and examples of the bundle that answers."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from twotower.core.schema import ITEM_ID
from twotower.server.live_models import LiveModel
from twotower.server.requests import Event, UserEvent

TYPES = {"text": "string", "integer": "integer", "number": "number"}


def describe(app: FastAPI, model: LiveModel) -> dict[str, Any]:
    """Return the description of `app` as JSON.

    Args:
        app: with all routes.
        model: whose event keys and filters are described.
    """
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    contract = model.bundle.manifest.get("requests", {})
    schemas["Event"] = Event.model_json_schema(ref_template="#/components/schemas/{model}")
    for name in (Event.__name__, UserEvent.__name__):
        properties = schemas[name]["properties"]
        for key, entry in contract.get("events", {}).items():
            if key != ITEM_ID and key not in properties:
                properties[key] = _property(entry)
            elif key != ITEM_ID and "values" in entry:
                properties[key] = {**properties[key], "examples": entry["values"]}
    example = contract.get("example", {})
    history = (example.get("histories") or [[]])[0]
    asked = {key: value for key, value in example.items() if key != "histories"}
    schemas["Recommend"]["examples"] = [{"history": history, **asked}]
    schemas["NewEvents"]["examples"] = [{"events": [{"user_id": "user-1", **event} for event in history]}]
    if history:
        schemas["Similar"]["examples"] = [{ITEM_ID: history[0][ITEM_ID], "k": 10}]
    filters = contract.get("filters", {})
    words = "; ".join(f"{name} ({entry['type']})" for name, entry in filters.items())
    for name in ("Recommend", "Similar"):
        schemas[name]["properties"]["filters"]["description"] = f"A predicate over: {words}"
    return document


def _property(entry: dict[str, Any]) -> dict[str, Any]:
    """A key of an event; values that training did not have are accepted, and count as unknown."""
    described: dict[str, Any] = {"anyOf": [{"type": TYPES.get(entry["type"], "string")}, {"type": "null"}]}
    if "values" in entry:
        described["examples"] = entry["values"]
    if "unit" in entry:
        described["description"] = entry["unit"]
    return described
