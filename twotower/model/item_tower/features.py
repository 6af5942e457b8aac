"""Item tower of ids and item features.

Shapes: V items, D embedding dim, N ids, T codes of all items together, W numbers an item.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.model.item_tower.id import IdItemTower

Array = npt.NDArray[Any]


class FeatureItemTower(IdItemTower):
    """The id embedding + the mean embedding of each feature's codes + a linear map of the features' numbers.

    All codes of an item, of any feature, form one weighted bag: a code of a feature with n codes weighs 1 / n. Cost:
    D times the number of codes of the encoded items.

    So that features alone give a useful vector, training leaves out the id embeddings of some items (DropoutNet,
    Volkovs et al. 2017). Those of cold items, never a target in training, are always left out: they were not trained,
    or only pushed away from everything.

    >>> colours = {"colour.codes": np.array([0, 1, 0]), "colour.offsets": np.arange(4)}  # a bag of one code an item
    >>> tower = FeatureItemTower(num_items=3, dim=4, normalize=False, item_features=colours)
    >>> tower.begin_training(target_counts=torch.tensor([0, 5, 2, 0]))  # item 3 is cold: its feature alone
    >>> torch.allclose(tower(torch.tensor(3)), tower.bags.weight[0])
    True

    Args:
        item_features: the arrays of schema.ITEM_FEATURES_FILE, "name.codes" [T] and "name.offsets" [V + 1] of bags,
            "name.values" [V, W] of numbers. A code that no item has gets no embedding.
        id_dropout: share of a training step's items whose id embeddings are left out.
        num_items, dim, normalize, hash_buckets, sharded: see IdItemTower.
    """

    warm: Tensor  # [V + 1] bool, False for cold items; part of the checkpoint, as it depends on the training data
    # Codes lie item after item; embeddings of a feature's codes begin where those of the features before it end.
    codes: Tensor  # [T] int32, for which embedding_bag takes half the time
    shares: Tensor  # [T] weight of each code in its item's bag
    starts: Tensor  # [V + 2] codes of item_index i are starts[i]:starts[i + 1]; PAD has none
    values: Tensor  # [V + 1, W] numbers by item_index; PAD's are 0

    def __init__(
        self,
        num_items: int,
        dim: int,
        normalize: bool,
        item_features: Mapping[str, Array],
        hash_buckets: int | None = None,
        id_dropout: float = 0.0,
        sharded: bool = False,
    ) -> None:
        super().__init__(num_items, dim, normalize, hash_buckets=hash_buckets, sharded=sharded)
        if not 0 <= id_dropout < 1:
            raise UserError(f"model.item_tower.id_dropout={id_dropout}; expected a share from 0 to less than 1")
        if not item_features:
            raise UserError(
                "model/item_tower=features, but the items of this data have no features; declare some in "
                "preparation.features.items, or take model/item_tower=id"
            )
        self.id_dropout = id_dropout
        self.register_buffer("warm", torch.ones(num_items + 1, dtype=torch.bool))
        features = sorted(name.rpartition(".") for name in item_features)
        bags = [name for name, _, part in features if part == "codes"]
        numbers = [item_features[f"{name}.values"] for name, _, part in features if part == "values"]
        self.has_bags, self.has_numbers = bool(bags), bool(numbers)
        if bags:
            bag_arrays = [(item_features[f"{name}.codes"], item_features[f"{name}.offsets"]) for name in bags]
            self.bags = nn.Embedding(self._register_bags(bag_arrays), dim)
            nn.init.normal_(self.bags.weight, std=dim**-0.5)
        if numbers:
            values = np.pad(np.concatenate(numbers, axis=1, dtype=np.float32), ((1, 0), (0, 0)))
            self._register("values", values)
            self.linear = nn.Linear(values.shape[1], dim, bias=False)
            nn.init.normal_(self.linear.weight, std=dim**-0.5)

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        ids = item_index.flatten()
        with_id = self.warm[ids]
        if self.training and self.id_dropout > 0:
            with_id &= torch.rand(len(ids), device=ids.device) >= self.id_dropout
        vectors = self.id_embeddings(ids.where(with_id, PAD))  # the zero vector, which gets no gradient
        if self.has_bags:
            vectors = vectors + self._bag_vectors(ids)
        if self.has_numbers:
            vectors = vectors + self.linear(self.values[ids])
        vectors = vectors.view(*item_index.shape, vectors.shape[-1])
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def begin_training(self, target_counts: Tensor) -> None:
        """Take items that are never a target in training as cold; `target_counts` [V + 1] is by item_index."""
        self.warm = target_counts.to(self.warm.device) > 0

    def _bag_vectors(self, ids: Tensor) -> Tensor:
        """[N] item_index -> [N, D] the sum over features of their codes' mean embedding."""
        start, length = self.starts[ids], self.starts[ids + 1] - self.starts[ids]
        begin = length.cumsum(0) - length
        place = torch.repeat_interleave(start - begin, length)
        place += torch.arange(len(place), device=place.device)
        return F.embedding_bag(
            self.codes[place], self.bags.weight, begin.int(), mode="sum", per_sample_weights=self.shares[place],
            sparse=self.bags.sparse,
        )  # fmt: skip

    def _register_bags(self, bags: list[tuple[Array, Array]]) -> int:
        """Merge the features' codes and offsets to one bag an item; returns the number of embeddings."""
        items, codes, shares, size = [], [], [], 0
        for feature_codes, offsets in bags:
            length = np.diff(offsets)
            items.append(np.repeat(np.arange(len(length)), length))
            codes.append(feature_codes.astype(np.int32) + np.int32(size))
            shares.append(np.repeat((1 / np.maximum(length, 1)).astype(np.float32), length))
            size += int(feature_codes.max(initial=0)) + 1
        item = np.concatenate(items)
        order = np.argsort(item, kind="stable")  # by item, then by feature
        self._register("codes", np.concatenate(codes)[order])
        self._register("shares", np.concatenate(shares)[order])
        starts = np.cumsum(np.bincount(item, minlength=self.num_items))
        self._register("starts", np.concatenate([[0, 0], starts]))
        return size

    def _register(self, name: str, array: Array) -> None:
        """Register a tensor that moves with the model but is not in its checkpoint: it follows from the data."""
        self.register_buffer(name, torch.from_numpy(array), persistent=False)
