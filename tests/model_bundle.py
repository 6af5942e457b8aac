"""A bundle of a model of torch's and a catalogue with features, as the export writes one; its answers come from torch.

Shapes: V items, Q histories.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from bundle_files import finish_bundle
from item_catalogue import Raw, arrays_of, fitted, learnt_model, raw_items

from twotower.core.values import TextForm
from twotower.exporting.item_tower import export_item_tower
from twotower.exporting.user_tower import export_user_tower
from twotower.exporting.vectors import write_item_vectors
from twotower.model.two_tower import TwoTower

MAX_LENGTH, K = 6, 10
TYPES = {"tags": pa.list_(pa.string()), "price": pa.float64(), "weight": pa.float64()}


def raw_table(raw: Raw, ids: Sequence[int | str], **more: Any) -> pa.Table:
    """The items as items.parquet has them, but their vectors."""
    known = {name: pa.array(v, TYPES.get(name, pa.string())) for name, v in raw.items() if name != "picture"}
    return pa.table({"item_id": pa.array(ids), **more, **known})


def answers(model: TwoTower, histories: Sequence[Sequence[int]], k: int) -> tuple[np.ndarray[Any, Any], Any]:
    """Rows [Q, k] and scores [Q, k] of the best items after histories of item_index, one history at a time."""
    scores = []
    with torch.no_grad():
        items = model.encode_items()
        for history in histories:
            newest = torch.tensor([history[-MAX_LENGTH:]])
            scores.append(items @ model(newest, torch.zeros(*newest.shape, 0)).squeeze(0))
    best = [torch.sort(row, descending=True, stable=True) for row in scores]
    return np.array([b.indices[:k].tolist() for b in best]), [b.values[:k].tolist() for b in best]


USER_TOWERS: dict[Any, bytes] = {}


def _user_tower(model: TwoTower, path: Path, dim: int) -> None:
    """Export each user tower once: it takes seconds, and many bundles differ in their items alone."""
    parts = {n: w.numpy().tobytes() for n, w in model.state_dict().items() if not n.startswith(("item_", "history_"))}
    key = (str(model.user_tower), model.normalize, model.served_dim, dim, *sorted(parts.items()))
    if key not in USER_TOWERS:
        export_user_tower(model, path, dim, MAX_LENGTH, 0)
        USER_TOWERS[key] = path.read_bytes()
    path.write_bytes(USER_TOWERS[key])


def write_model_bundle(
    directory: Path,
    model: TwoTower,
    ids: Sequence[int | str],
    counts: Sequence[int],
    raw: Raw,
    encoders: Mapping[str, Any],
    arrays: Mapping[str, Any],
    factory: str = "Flat",
) -> Path:
    directory.mkdir()
    vectors, history_vectors = write_item_vectors(model, directory)
    _user_tower(model, directory / "user_tower.onnx", history_vectors.shape[1])
    facts = export_item_tower(model, directory, arrays, encoders)
    names = {"item_name": pa.array(raw["title"], pa.string())} if "title" in raw else {}
    learnt = {"train_count": pa.array(counts, pa.int64()), "age_days": pa.array([7 * n for n in counts], pa.int64())}
    table = raw_table(raw, ids, **learnt, **names)
    clock = {"time_zone": "UTC", "event_types": [], "input_types": [], "events": {}, "values": TextForm().as_json()}
    random = np.random.default_rng(5)
    histories = [random.integers(1, len(ids) + 1, n).tolist() for n in (1, 2, 3, 6, 9)]
    rows, scores = answers(model, histories, min(K, len(ids)))
    golden = {"k": min(K, len(ids)), "histories": [[ids[i - 1] for i in h] for h in histories]}
    golden |= {"ids": [[ids[r] for r in row] for row in rows], "scores": scores}
    similarity = "cosine" if model.normalize else "dot"
    facts |= {"similarity": similarity, "max_length": MAX_LENGTH, "inputs": []}
    finish_bundle(directory, table, vectors, {**clock, "items": dict(encoders)}, golden, facts, factory)
    return directory


def write_shop_bundle(path: Path, kind: type, items: int = 40) -> Path:
    """A bundle of a small shop with features, whose ids are `kind`s from 100 on."""
    raw = raw_items(items, 0)
    encoders = fitted(raw)
    arrays = arrays_of(encoders, raw)
    ids = [kind(100 + i) for i in range(items)]
    return write_model_bundle(path, learnt_model(arrays, items), ids, list(range(items)), raw, encoders, arrays)
