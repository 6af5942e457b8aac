"""Golden histories: some histories of the validation data with the model's results, kept in golden.json.

A history is a list of item ids; with event inputs, of {"item_id": id, "codes": {input: code}}. With query time, "now"
has the second at which each is asked about.
Shapes: Q histories, E events of all of them, W items, K event inputs, k results each, D embedding dim, H that of items
in histories.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.core.arrays import Floats, Ints
from twotower.core.event_codes import AT_ONCE
from twotower.core.files import sha256
from twotower.core.schema import ITEM_ID
from twotower.serving.bundle import Bundle
from twotower.serving.catalogue import rows_of
from twotower.serving.exact_search import exact_top_k
from twotower.serving.histories import KnownEvents
from twotower.serving.user_tower import encode_histories


def origin(similarity: str, features: Path) -> dict[str, str]:
    """Return golden.json's "origin": what the model's results depend on but do not show."""
    return {"similarity": similarity, "features": sha256(features)}


def item_of(event: Any) -> Any:
    """Return the item id of an event of a golden history."""
    return event[ITEM_ID] if isinstance(event, dict) else event


def encoded_golden(golden: Mapping[str, Any], inputs: Collection[str]) -> tuple[list[Any], list[Any], Ints]:
    """Return item ids and codes of the events of each golden history, and the time [Q] that each is asked at."""
    histories = golden["histories"]
    ids = [[item_of(event) for event in history] for history in histories]
    codes = [[[event["codes"][name] for name in inputs] for event in history] for history in histories]
    return ids, codes, np.array(golden.get("now", [AT_ONCE] * len(histories)), dtype=np.int64)


def updated_golden(
    golden: dict[str, Any], bundle: Bundle, item_ids: pa.Array, vectors: Floats, history_vectors: Floats
) -> dict[str, Any]:
    """Return golden.json of a changed catalogue: histories without removed items, and their results by exact search.

    Args:
        golden: of the version before.
        bundle: that version, whose user tower stays.
        item_ids, vectors, history_vectors: [W], [W, D] and [W, H] of the new version.
    """
    inputs = bundle.inputs
    used = sorted({item_of(event) for history in golden["histories"] for event in history})
    row = dict(zip(used, rows_of(pa.array(used, item_ids.type), item_ids).tolist(), strict=True))
    kept = [[event for event in history if row[item_of(event)] >= 0] for history in golden["histories"]]
    now = [moment for moment, history in zip(golden.get("now", [AT_ONCE] * len(kept)), kept, strict=True) if history]
    kept = [history for history in kept if history]
    if not kept:  # all of their items were removed
        first = item_ids[0].as_py()
        row[first] = 0
        kept = [[{ITEM_ID: first, "codes": dict.fromkeys(inputs, 0)} if inputs else first]]
        now = [AT_ONCE]
    item_index = np.array([row[item_of(event)] + 1 for history in kept for event in history])
    codes = [[event["codes"][name] for name in inputs] for history in kept for event in history]
    table = np.array(codes, dtype=np.int64).reshape(len(item_index), len(inputs))
    events = KnownEvents(item_index, table, np.array([len(history) for history in kept]), np.array(now))
    users = encode_histories(bundle.tower, history_vectors, events, int(bundle.manifest["max_length"]))
    rows, scores = exact_top_k(users, vectors, min(golden["k"], len(vectors)))
    ids = [item_ids.take(pa.array(places)).to_pylist() for places in rows]
    moments = {"now": now} if "now" in golden else {}
    return golden | {"k": rows.shape[1], "histories": kept, **moments, "ids": ids, "scores": scores.tolist()}
