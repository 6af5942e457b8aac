"""Item towers: a catalogue row to a vector.

Shapes: V items, D embedding dim, N items asked for, T codes of all items together, W numbers an item.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.errors import UserError
from twotower.schema import PAD

Array = npt.NDArray[Any]


class IdItemTower(nn.Module):
    """One learned vector an item.

    Args:
        num_items: V; indices run from 1 to V, 0 is PAD (the zero vector).
        dim: D.
        normalize: give vectors of length one, for cosine similarity.
        item_features: every item tower is told of them; this one makes no use of it.
    """

    def __init__(
        self, num_items: int, dim: int, normalize: bool, item_features: Mapping[str, Array] | None = None
    ) -> None:
        super().__init__()
        self.num_items = num_items
        self.normalize = normalize
        self.embedding = nn.Embedding(num_items + 1, dim, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight.normal_(std=dim**-0.5)  # about length one
            self.embedding.weight[PAD].zero_()

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        vectors: Tensor = self.embedding(item_index)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


class FeatureItemTower(IdItemTower):
    """An item's own vector + the mean vector of each feature's codes + a linear map of its numbers.

    All codes of an item, whatever the feature, form one weighted bag: a code of a feature with n codes weighs 1 / n.
    A step encodes each of its items once, at a cost of D times the codes that they have together.

    Args:
        num_items: V.
        dim: D.
        normalize: give vectors of length one.
        item_features: the arrays of schema.ITEM_FEATURES_FILE, "name.codes" [T] and "name.offsets" [V + 1] of bags,
            "name.values" [V, W] of numbers. A code that no item has gets no vector.
    """

    # Codes lie item after item; those of a feature begin where the codes of the features before it end.
    codes: Tensor  # [T] int32, which embedding_bag takes half the time for
    shares: Tensor  # [T] what each counts in its item's bag
    starts: Tensor  # [V + 2] codes of item_index i are starts[i]:starts[i + 1]; PAD has none
    values: Tensor  # [V + 1, W] numbers by item_index; PAD's are 0

    def __init__(self, num_items: int, dim: int, normalize: bool, item_features: Mapping[str, Array]) -> None:
        super().__init__(num_items, dim, normalize)
        if not item_features:
            raise UserError(
                "model/item_tower=features, but the items of this data have no features; declare some in "
                "preparation.features.items, or take model/item_tower=id"
            )
        features = sorted(name.rpartition(".") for name in item_features)
        bags = [name for name, _, part in features if part == "codes"]
        numbers = [item_features[f"{name}.values"] for name, _, part in features if part == "values"]
        if bags:
            size = self._register_bags(
                [item_features[f"{name}.codes"] for name in bags], [item_features[f"{name}.offsets"] for name in bags]
            )
            self.bags = nn.Embedding(size, dim)
            nn.init.normal_(self.bags.weight, std=dim**-0.5)
        if numbers:
            values = np.concatenate([np.zeros((num_items, 0), np.float32), *numbers], axis=1)
            values = np.concatenate([np.zeros((1, values.shape[1]), np.float32), values])
            self._keep("values", values)
            self.linear = nn.Linear(values.shape[1], dim, bias=False)
            nn.init.normal_(self.linear.weight, std=dim**-0.5)
        self.has_bags, self.has_numbers = bool(bags), bool(numbers)

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        ids = item_index.flatten()
        vectors: Tensor = self.embedding(ids)
        if self.has_bags:
            vectors = vectors + self._bag_vectors(ids)
        if self.has_numbers:
            vectors = vectors + self.linear(self.values[ids])
        vectors = vectors.view(*item_index.shape, vectors.shape[-1])
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def _bag_vectors(self, ids: Tensor) -> Tensor:
        """[N] item_index -> [N, D] the sum over features of their codes' mean vector."""
        start, length = self.starts[ids], self.starts[ids + 1] - self.starts[ids]
        stop = length.cumsum(0)
        begin = stop - length
        place = torch.repeat_interleave(start - begin, length)
        place += torch.arange(len(place), device=place.device)
        return F.embedding_bag(
            self.codes[place], self.bags.weight, begin.int(), mode="sum", per_sample_weights=self.shares[place]
        )

    def _register_bags(self, codes: list[Array], offsets: list[Array]) -> int:
        """Join the features' bags, a list entry each, item by item; returns how many codes there are."""
        lengths = np.stack([np.diff(o) for o in offsets], axis=1)  # [V, features]
        cell = np.cumsum(lengths).reshape(lengths.shape) - lengths  # where an item's codes of a feature begin
        total = int(lengths.sum())
        all_codes, shares = np.empty(total, np.int32), np.empty(total, np.float32)
        size = 0
        for f, (own, offset) in enumerate(zip(codes, offsets, strict=True)):
            place = np.arange(len(own)) + np.repeat(cell[:, f] - offset[:-1], lengths[:, f])
            all_codes[place] = own + np.int32(size)
            shares[place] = np.repeat(1 / np.maximum(lengths[:, f], 1), lengths[:, f])
            size += int(own.max(initial=0)) + 1
        starts = np.concatenate([[0, 0], np.cumsum(lengths.sum(axis=1))])
        self._keep("codes", all_codes)
        self._keep("shares", shares)
        self._keep("starts", starts)
        return size

    def _keep(self, name: str, array: Array) -> None:
        """Make a tensor that moves with the model and is no part of its checkpoint: the data has it."""
        self.register_buffer(name, torch.from_numpy(array), persistent=False)
