"""Export the item tower as an ONNX graph: vectors of new items, and of items with changed features.

Only towers with features have one. A code that no item of the catalogue had, and a number that was 0 for all of them,
were never trained: their weights, still the random initial ones, are set to zero.

Shapes: V items, N items at once, T codes of all of those, O id embeddings (D for each tower of the model), W numbers an
item, D embedding dim, H that of items in histories.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from twotower.core.arrays import Array
from twotower.core.schema import PAD
from twotower.exporting.onnx_file import write_graph
from twotower.features import Encoder
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.two_tower import TwoTower
from twotower.serving.bundle_format import ID_EMBEDDINGS_FILE, ITEM_TOWER_FILE
from twotower.serving.item_tower import HISTORY_OUTPUT, INPUTS, ITEM_OUTPUT

ITEMS = 2**16  # read at once


def export_item_tower(
    model: TwoTower, directory: Path, item_features: Mapping[str, Array], encoders: Mapping[str, Encoder]
) -> dict[str, Any]:
    """Write ITEM_TOWER_FILE and ID_EMBEDDINGS_FILE (see serving.item_tower).

    Args:
        model: on the CPU.
        directory: of the files.
        item_features: the arrays that the model's item towers were built with.
        encoders: the items' encoders by feature.

    Returns:
        {"item_tower": how encoded features become the graph's inputs} for the manifest. {}, and no file is written,
        where the model has no features, or an encoder is missing.
    """
    towers = [tower for tower in model.item_towers() if isinstance(tower, FeatureItemTower)]
    facts = item_tower_facts(item_features, encoders)
    if len(towers) < len(model.item_towers()) or facts is None:
        return {}
    rows = _ItemTower(model, towers)
    outputs = [ITEM_OUTPUT, HISTORY_OUTPUT] if rows.has_history else [ITEM_OUTPUT]
    write_graph(rows, rows.example, rows.axes, outputs, directory / ITEM_TOWER_FILE)
    _write_id_embeddings(towers, facts, directory / ID_EMBEDDINGS_FILE)
    return {"item_tower": facts}


def item_tower_facts(item_features: Mapping[str, Array], encoders: Mapping[str, Encoder]) -> dict[str, Any] | None:
    """Return how FeatureItemTower joins the features, in the order of their names; None where an encoder is missing.

    Returns:
        {"bags": [{"name", "offset": of its codes, "size": how many codes have a vector}],
         "values": [{"name", "width", "kept": whether ID_EMBEDDINGS_FILE has the numbers}]}. Those of vectors are kept,
        as items.parquet has no vectors.
    """
    bags: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    offset = 0
    for name, _, part in sorted(key.rpartition(".") for key in item_features):
        if name not in encoders:
            return None
        array = item_features[f"{name}.{part}"]
        if part == "codes":
            size = int(array.max(initial=0)) + 1
            bags.append({"name": name, "offset": offset, "size": size})
            offset += size
        elif part == "values":
            values.append({"name": name, "width": array.shape[1], "kept": encoders[name]["kind"] == "vector"})
    return {"bags": bags, "values": values}


class _ItemTower(nn.Module):
    """FeatureItemTower.forward with id embeddings and features as inputs instead of item_index."""

    def __init__(self, model: TwoTower, towers: list[FeatureItemTower]) -> None:
        super().__init__()
        self.served, self.has_history = model.served, len(towers) > 1 or model.served_dim is not None
        self.dims = [int(tower.embedding.embedding_dim) for tower in towers]
        self.normalize = [tower.normalize for tower in towers]
        self.has_bags, self.has_numbers = towers[0].has_bags, towers[0].has_numbers
        self.width = towers[0].values.shape[1] if self.has_numbers else 0
        for i, tower in enumerate(towers):
            if tower.has_bags:
                used = torch.zeros(len(tower.bags.weight), 1)
                used[tower.codes.long()] = 1
                self.register_buffer(f"bags_{i}", tower.bags.weight.detach() * used)
            if tower.has_numbers:
                used = (tower.values != 0).any(dim=0).float()
                self.register_buffer(f"linear_{i}", tower.linear.weight.detach() * used)

    @property
    def axes(self) -> dict[str, dict[int, torch.export.Dim]]:
        """The inputs and their dynamic dimensions."""
        items, codes = torch.export.Dim("items", min=1), torch.export.Dim("codes", min=0)
        id_embedding, *bags, values = INPUTS
        axes = {id_embedding: items} | (dict.fromkeys(bags, codes) if self.has_bags else {})
        axes |= {values: items} if self.has_numbers else {}
        return {name: {0: axis} for name, axis in axes.items()}

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of three items."""
        bags = [torch.tensor([0, 0, 1, 2]), torch.zeros(4, dtype=torch.long), torch.ones(4)] if self.has_bags else []
        values = [torch.ones(3, self.width)] if self.has_numbers else []
        return (torch.ones(3, sum(self.dims)), *bags, *values)

    def forward(self, id_embedding: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        vectors = list(torch.split(id_embedding, self.dims, dim=1))
        for i, normalize in enumerate(self.normalize):
            if self.has_bags:
                item, codes, shares = features[:3]
                parts = F.embedding(codes, getattr(self, f"bags_{i}")) * shares[:, None]
                vectors[i] = vectors[i].index_add(0, item, parts)
            if self.has_numbers:
                vectors[i] = vectors[i] + F.linear(features[-1], getattr(self, f"linear_{i}"))
            if normalize:
                vectors[i] = F.normalize(vectors[i], dim=-1)
        return (self.served(vectors[0]), *([vectors[-1]] if self.has_history else []))


def _write_id_embeddings(towers: list[FeatureItemTower], facts: Mapping[str, Any], path: Path) -> None:
    """Write [V, O + kept numbers]; zero for cold items, whose embedding was not trained; hashed rows are added up."""
    num_items = towers[0].num_items
    width = [entry["width"] for entry in facts["values"]]
    kept = np.repeat([entry["kept"] for entry in facts["values"]], width).astype(bool)
    table = None
    for start in range(1, num_items + 1, ITEMS):
        ids = torch.arange(start, min(start + ITEMS, num_items + 1))
        with torch.no_grad():
            parts = [tower.id_embeddings(ids.where(tower.warm[ids], PAD)) for tower in towers]
        values = [towers[0].values[ids].numpy()[:, kept]] if towers[0].has_numbers else []
        rows = np.concatenate([*(part.numpy() for part in parts), *values], axis=1)
        if table is None:
            table = open_memmap(path, "w+", np.float32, (num_items, rows.shape[1]))
        table[start - 1 : start - 1 + len(rows)] = rows
    assert table is not None
    table.flush()
