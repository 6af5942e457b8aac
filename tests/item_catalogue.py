"""Items with features of every kind, a model that has learnt from them, and the same model for another catalogue.

Shapes: V items, D embedding dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from twotower.features import encode, fit
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower

SPECS: dict[str, dict[str, Any]] = {
    "brand": {"kind": "categorical"},
    "tags": {"kind": "multi"},
    "title": {"kind": "text", "ngrams": [3], "buckets": 400},
    "price": {"kind": "price"},
    "weight": {"kind": "numeric", "standardise": True},
    "picture": {"kind": "vector"},
}
DIM = 8
Raw = dict[str, list[Any]]


def raw_items(number: int, seed: int, brands: str = "ABCD", words: Sequence[str] = ("red", "shoe", "hat")) -> Raw:
    """Values of each feature, some of them null."""
    random = np.random.default_rng(seed)

    def some(values: list[Any]) -> list[Any]:
        return [value if random.random() > 0.15 else None for value in values]

    return {
        "brand": some([str(b) for b in random.choice(list(brands), number)]),
        "tags": some([sorted({str(t) for t in random.choice(list("pqrst"), 3)}) for _ in range(number)]),
        "title": some([" ".join(random.choice(words, 2)) for _ in range(number)]),
        "price": some(random.uniform(1, 99, number).round(2).tolist()),
        "weight": some(random.normal(5, 2, number).tolist()),
        "picture": some([row.tolist() for row in random.normal(size=(number, 3)).astype(np.float32)]),
    }


def joined(*tables: Raw) -> Raw:
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def fitted(raw: Raw) -> dict[str, dict[str, Any]]:
    return {name: fit(name, SPECS[name], values) for name, values in raw.items()}


def arrays_of(encoders: Mapping[str, Any], raw: Raw) -> dict[str, np.ndarray[Any, Any]]:
    """As preparation leaves them in item_features.npz."""
    arrays = {}
    for name, values in raw.items():
        encoded = encode(encoders[name], values)
        arrays |= {f"{name}.{part}": array for part, array in zip(encoded._fields, encoded, strict=True)}
    return arrays


def learnt_model(
    arrays: Mapping[str, Any],
    num_items: int,
    *,
    normalize: bool = True,
    hash_buckets: int | None = None,
    tied: bool = True,
    served_dim: int | None = None,
    seed: int = 0,
) -> TwoTower:
    """Random weights; every fifth item is cold."""
    torch.manual_seed(seed)
    users = GRUTower(DIM, 1, 0.0)  # the same for every catalogue
    towers = [
        FeatureItemTower(num_items, DIM, normalize, arrays, hash_buckets, 0.1).eval() for _ in range(1 if tied else 2)
    ]
    for tower in towers:
        tower.begin_training(torch.arange(num_items + 1) % 5)
    model = TwoTower(towers[0], EventInputs({}, DIM), users, None, normalize, *towers[1:])
    model.served_dim = served_dim
    return model.eval()


def rebuilt(
    model: TwoTower,
    before: Mapping[str, np.ndarray[Any, Any]],
    after: Mapping[str, np.ndarray[Any, Any]],
    rows: Sequence[int],
) -> TwoTower:
    """The weights that `model` learnt on the arrays `before`, in a model of the catalogue `after`.

    `rows` [V] has each item's row before, -1 for new ones, which have learnt nothing themselves. Codes that no item
    had, and numbers that all had alike, have learnt nothing.
    """
    towers = []
    for old in model.item_towers():
        tower = FeatureItemTower(len(rows), DIM, old.normalize, after, None, 0.0).eval()
        own = old.id_embeddings(torch.arange(old.num_items + 1).where(old.warm, 0)).detach()
        with torch.no_grad():
            tower.embedding.weight.zero_()
            for item, row in enumerate(rows, start=1):
                tower.embedding.weight[item] = own[row + 1]
            _copy_codes(tower, old, before, after)
            _copy_numbers(tower, old, before)
        towers.append(tower)
    new = TwoTower(towers[0], model.event_inputs, model.user_tower, None, model.normalize, *towers[1:])
    new.served_dim = model.served_dim
    return new.eval()


def _copy_codes(tower: FeatureItemTower, old: FeatureItemTower, before: Any, after: Any) -> None:
    if not old.has_bags:
        return
    tower.bags.weight.zero_()
    first_old = first_new = 0
    for name in sorted(key[: -len(".codes")] for key in before if key.endswith(".codes")):
        for code in {int(c) for c in before[f"{name}.codes"]}:
            if code <= after[f"{name}.codes"].max():
                tower.bags.weight[first_new + code] = old.bags.weight[first_old + code]
        first_old += int(before[f"{name}.codes"].max()) + 1
        first_new += int(after[f"{name}.codes"].max()) + 1


def _copy_numbers(tower: FeatureItemTower, old: FeatureItemTower, before: Any) -> None:
    if not old.has_numbers:
        return
    columns = np.concatenate([before[key] for key in sorted(before) if key.endswith(".values")], axis=1)
    for k, column in enumerate(columns.T):
        tower.linear.weight[:, k] = old.linear.weight[:, k] if column.any() else 0
