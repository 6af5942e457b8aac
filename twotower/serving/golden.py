"""Golden histories: what their answers hang on, and those of a changed catalogue, by scoring every item.

Shapes: Q histories, E events of all of them, W items, K event inputs, k answers each, D embedding dim, H that of items
in histories.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.core.files import sha256
from twotower.core.schema import ITEM_ID
from twotower.serving.bundle import Bundle
from twotower.serving.histories import Known
from twotower.serving.item_rows import rows_of
from twotower.serving.user_tower import encode_histories

ITEMS = 2**14  # scored at once
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def origin(similarity: str, features: Path) -> dict[str, str]:
    """What the trained model's answers hang on that they do not show: golden.json's "origin"."""
    return {"similarity": similarity, "features": sha256(features)}


def new_golden(
    golden: dict[str, Any], bundle: Bundle, item_ids: pa.Array, vectors: Floats, history_vectors: Floats
) -> dict[str, Any]:
    """The same histories without items that are gone, and the answers to them; none of them empty.

    Args:
        golden: of the version before.
        bundle: that version, whose user tower stays.
        item_ids, vectors, history_vectors: [W], [W, D] and [W, H] of the new one.
    """
    inputs = bundle.inputs
    used = sorted({_item(event) for history in golden["histories"] for event in history})
    row = dict(zip(used, rows_of(pa.array(used, item_ids.type), item_ids).tolist(), strict=True))
    kept = [[event for event in history if row[_item(event)] >= 0] for history in golden["histories"]]
    kept = [history for history in kept if history]
    if not kept:  # all that they held is gone
        first = item_ids[0].as_py()
        row[first] = 0
        kept = [[{ITEM_ID: first, "codes": dict.fromkeys(inputs, 0)} if inputs else first]]
    item_index = np.array([row[_item(event)] + 1 for history in kept for event in history])
    codes = [[event["codes"][name] for name in inputs] if inputs else [] for history in kept for event in history]
    length = np.array([len(history) for history in kept])
    table = np.array(codes, dtype=np.int64).reshape(len(item_index), len(inputs))
    known = Known(item_index, table, length)
    users = encode_histories(bundle.tower, history_vectors, known, int(bundle.manifest["max_length"]))
    rows, scores = best(users, vectors, min(golden["k"], len(vectors)))
    ids = item_ids.take(pa.array(rows.ravel())).to_pylist()
    k = rows.shape[1]
    answers = [ids[start : start + k] for start in range(0, len(ids), k)]
    return golden | {"k": k, "histories": kept, "ids": answers, "scores": scores.tolist()}


def best(users: Floats, vectors: Floats, k: int) -> tuple[Ints, Floats]:
    """Rows [Q, k] and scores [Q, k] of the items that score highest; of equal ones the first. Part by part."""
    rows, scores = np.empty((len(users), 0), np.int64), np.empty((len(users), 0), np.float32)
    for start in range(0, len(vectors), ITEMS):
        part = users @ vectors[start : start + ITEMS].T
        few = min(k, part.shape[1])
        found = np.stack([_first(row, few) for row in part])
        rows = np.concatenate([rows, start + found], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(part, found, axis=1)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores


def _first(scores: Floats, k: int) -> Ints:
    """Places of the k highest scores, in order; a full sort of all would take ten times as long."""
    least = np.partition(scores, -k)[-k]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")[:k]]


def _item(event: Any) -> Any:
    return event[ITEM_ID] if isinstance(event, dict) else event
