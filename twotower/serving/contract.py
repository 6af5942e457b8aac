"""What a request to a bundle may hold, in words and values: a client can be written from it alone.

    {"events": {KEY: {"type": "text" | "integer" | "number", "inputs": [names of the model's event inputs made of it],
                      "unit", "time_zone", "values", "number of values", "edges": as far as they apply}},
     "filters": {COLUMN: {"type": "text", "values", "number of values"} | {"type": "number", "from", "to"}},
     "example": arguments of Retriever.recommend}

Lists of values have the SHOWN most frequent, those of events the first in the order of their text; features.json and
items.parquet have all. Shapes: V items.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.core.schema import EMBEDDING, ITEM_COLUMNS, ITEM_ID, TIMESTAMP
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.golden_answers import item_of
from twotower.serving.item_columns import category_column, is_number, number_column

SHOWN = 20
START_MS, STEP_MS = 1_767_225_600_000, 60_000  # of the example's events: 2026-01-01, a minute apart
Entry = dict[str, Any]


def contract(encoder: EventEncoder, columns: pa.Table, golden: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bundle's contract as JSON.

    Args:
        encoder: of the model's event inputs.
        columns: [V] the columns of items.parquet, with or without the vectors.
        golden: the content of golden.json, whose first history is the example's.
    """
    kind = "text" if pa.types.is_string(columns[ITEM_ID].type) else "integer"
    events = {ITEM_ID: {"type": kind, "required": True, "inputs": []}, **_shortened(encoder.keys())}
    filters = {name: _column(columns[name]) for name in columns.column_names if name not in (ITEM_ID, EMBEDDING)}
    history = [item_of(event) for event in golden["histories"][0][-3:]]
    example: dict[str, Any] = {"histories": [_events(history, events)], "k": 10, "exclude_seen": True}
    texts = [name for name, entry in filters.items() if entry.get("values") and name not in ITEM_COLUMNS]
    if texts:
        example["filters"] = {texts[0]: filters[texts[0]]["values"][0]}
    return {"events": events, "filters": filters, "example": example}


def _shortened(keys: dict[str, Entry]) -> dict[str, Entry]:
    return {
        key: {**entry, "values": entry["values"][:SHOWN], "number of values": len(entry["values"])}
        if "values" in entry
        else entry
        for key, entry in keys.items()
    }


def _column(values: pa.ChunkedArray) -> Entry:
    if is_number(values.type):
        numbers = number_column(values)
        present = numbers.values[~numbers.is_null & np.isfinite(numbers.values)]
        return {
            "type": "number",
            **({"from": present.min().item(), "to": present.max().item()} if len(present) else {}),
        }
    column = category_column(values)
    count = np.bincount(column.codes, minlength=len(column.values))
    most = np.argsort(-count, kind="stable")[:SHOWN]
    return {"type": "text", "values": column.values.take(pa.array(most)).to_pylist(), "number of values": len(count)}


def _events(history: Sequence[Any], keys: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The history as events with a value for every key."""
    events = []
    for place, item in enumerate(history):
        event = {ITEM_ID: item, TIMESTAMP: START_MS + place * STEP_MS}
        for key, entry in keys.items():
            values = entry.get("values") or entry.get("edges")
            if values:
                event[key] = values[place % len(values)]
        events.append(event)
    return events
