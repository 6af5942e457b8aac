"""A bundle of any size from an untrained model, written by the export's own functions.

The model is the default recipe's, and the items' vectors lie in clusters, as those of a shop do: an index finds in them
what it would find in a trained model's. A history's items are of one cluster, but for some. Shapes: V items, D
embedding dim, Q histories.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch

from twotower.core.files import write_json
from twotower.exporting.choose_index import choose_index
from twotower.exporting.parity import golden_answers
from twotower.exporting.user_tower import export_user_tower
from twotower.exporting.vectors import encode_users, write_item_vectors
from twotower.features import fit
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.pointer import Pointer
from twotower.model.residual import WeightedSum
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.transformer import TransformerTower
from twotower.runs.histories import History
from twotower.serving.bundle import write_items
from twotower.serving.bundle_format import seal, write_manifest
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.golden_answers import origin
from twotower.serving.index import ItemIndex

DIM, MAX_LENGTH, TEMPERATURE = 64, 50, 0.07
LENGTH = 20  # events of a history
GOLDEN = 200  # histories that go along
TYPES = ["view", "cart", "purchase"]
DEVICES = ["phone", "desktop", "tablet"]


def make_bundle(
    path: Path,
    num_items: int,
    *,
    dim: int = DIM,
    queries: int = 400,
    inputs: bool = False,
    families: Sequence[str] | None = None,
    pointer: bool = True,
    seed: int = 0,
) -> Path:
    """Write a bundle at `path`; its index is the one that the export would choose at a target recall of 0.99.

    Args:
        path: a new folder.
        num_items: V.
        dim: D.
        queries: histories that the index is chosen with.
        inputs: give the model event inputs: event_type, gap and the feature `device`.
        families: of indexes, as index.families; None: as index=auto.
        pointer: whether the model has one.
        seed: another one is another model of another catalogue, with the same ids.
    """
    path.mkdir(parents=True)
    random = np.random.default_rng(seed)
    cluster = random.integers(0, max(2, int(num_items**0.5)), num_items)
    features = _features(inputs)
    sizes = EventEncoder(["event_type", "gap", "device"] if inputs else [], features).sizes
    model = _model(cluster, dim, sizes, pointer, seed)
    histories = [_history(random, cluster, sizes) for _ in range(queries)]
    vectors, _ = write_item_vectors(model, path)
    export_user_tower(model, path / "user_tower.onnx", dim, MAX_LENGTH, len(sizes))
    users = encode_users(model, histories, MAX_LENGTH)
    choice = choose_index(vectors, users.vectors, families or ["exact", "ivf"], 0.99, 0 if families else 200_000)
    faiss.write_index(choice.index, str(path / "index.faiss"))
    index = ItemIndex(choice.index, vectors, choice.facts["search"], choice.facts["rerank"])
    columns = _columns(random, cluster)
    known = histories[:GOLDEN], users[:GOLDEN]
    golden, recall = golden_answers(columns["item_id"], *known, vectors, list(sizes), index)
    write_json(path / "features.json", features)
    write_json(path / "golden.json", golden | {"origin": origin("cosine", path / "features.json")})
    write_items(path / "items.parquet", columns, vectors)
    facts = {
        "similarity": "cosine",
        "dim": dim,
        "num_items": num_items,
        "max_length": MAX_LENGTH,
        "inputs": [{"name": name, "size": size} for name, size in sizes.items()],
        "index": {**choice.facts, "golden_recall": recall},
    }
    write_manifest(path, seal(path, facts, sorted(file.name for file in path.iterdir())))
    return path


def item_id(row: int) -> str:
    """Return the id of the item in this row."""
    return f"sku-{row:08}"


def _features(inputs: bool) -> dict[str, Any]:
    events = {"device": fit("device", {"kind": "categorical"}, DEVICES)} if inputs else {}
    types: dict[str, Any] = {"event_types": TYPES, "input_types": [1, 2, 3]} if inputs else {}
    return {"time_zone": "UTC", "event_types": [], "input_types": [], "items": {}, **types, "events": events}


def _model(cluster: Any, dim: int, sizes: dict[str, int], has_pointer: bool, seed: int) -> TwoTower:
    torch.manual_seed(seed)
    item_tower = IdItemTower(len(cluster), dim, True)
    centres = torch.randn(int(cluster.max()) + 1, dim)
    with torch.no_grad():
        item_tower.embedding.weight[1:] = centres[torch.from_numpy(cluster)] + 0.7 * torch.randn(len(cluster), dim)
    users = TransformerTower(dim, 2, 2, 0.2, MAX_LENGTH, True, True, False)
    inputs, residual = EventInputs(sizes, dim), WeightedSum(dim, MAX_LENGTH)
    pointer = Pointer(dim, MAX_LENGTH, TEMPERATURE) if has_pointer else None
    return TwoTower(item_tower, inputs, users, residual, True, pointer=pointer).eval()


def _history(random: Any, cluster: Any, sizes: dict[str, int]) -> History:
    """LENGTH items, three quarters of them of one cluster."""
    rows = random.integers(0, len(cluster), LENGTH)
    members = np.flatnonzero(cluster == cluster[rows[0]])
    same = random.random(LENGTH) < 0.75
    rows[same] = random.choice(members, int(same.sum()))
    columns = [random.integers(0, size, LENGTH) for size in sizes.values()]
    return History(rows + 1, np.stack(columns, 1) if columns else np.zeros((LENGTH, 0), np.int64))


def _columns(random: Any, cluster: Any) -> pa.Table:
    return pa.table(
        {
            "item_id": pa.array([item_id(row) for row in range(len(cluster))]),
            "train_count": pa.array(random.zipf(1.3, len(cluster)).clip(max=10**6), pa.int64()),
            "age_days": pa.array(random.integers(0, 365, len(cluster)), pa.int64()),
            "category": pa.array([f"c{number}" for number in cluster % 20]),
            "price": pa.array(random.uniform(1, 500, len(cluster)).round(2)),
        }
    )
