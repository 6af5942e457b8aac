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

from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.model.sharded_embedding import ShardedEmbedding

Array = npt.NDArray[Any]


class IdItemTower(nn.Module):
    """One learned vector an item; with `hash_buckets` the sum of two rows of a smaller table, picked by hashes.

    Two items that share one row have another second one, as good as always (Weinberger et al. 2009; with more than one
    hash Svenstrup et al. 2017). The table takes 4 * V * D bytes; hashed, 4 * hash_buckets * D + 8 * V.

    Args:
        num_items: V; indices run from 1 to V, 0 is PAD (the zero vector).
        dim: D.
        normalize: give vectors of length one, for cosine similarity.
        item_features: every item tower is told of them; this one makes no use of it.
        hash_buckets: rows of the table; None: one an item.
        sharded: each of several processes holds some of the table's rows, and all look up together.
    """

    rows: Tensor | None  # [V + 1, 2] int32 rows of each item_index

    def __init__(
        self,
        num_items: int,
        dim: int,
        normalize: bool,
        item_features: Mapping[str, Array] | None = None,
        hash_buckets: int | None = None,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        if sharded and hash_buckets is not None:
            raise UserError("model.item_tower: sharded=true or hash_buckets=N, not both")
        if hash_buckets is not None and not 0 < hash_buckets < num_items:
            raise UserError(
                f"model.item_tower.hash_buckets={hash_buckets}; expected fewer than the {num_items} items, "
                "or null for a row of its own for each"
            )
        self.num_items = num_items
        self.normalize = normalize
        rows = None if hash_buckets is None else torch.from_numpy(hashed_rows(num_items, hash_buckets))
        self.register_buffer("rows", rows, persistent=False)
        if sharded:
            self.embedding: Any = ShardedEmbedding(num_items + 1, dim, std=dim**-0.5)
            return
        self.embedding = nn.Embedding((hash_buckets or num_items) + 1, dim, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight.normal_(std=(dim if rows is None else 2 * dim) ** -0.5)  # about length one
            self.embedding.weight[PAD].zero_()

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        vectors = self.own_vectors(item_index.flatten()).view(*item_index.shape, self.embedding.embedding_dim)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def own_vectors(self, ids: Tensor) -> Tensor:
        """[N] item_index -> [N, D] what an item has learnt for itself."""
        if self.rows is None:
            vectors: Tensor = self.embedding(ids)
            return vectors
        table = self.embedding
        return F.embedding_bag(self.rows[ids], table.weight, mode="sum", padding_idx=PAD, sparse=table.sparse)

    def begin_training(self, target_counts: Tensor) -> None:
        """Told before training how often each item_index is a target in it, [V + 1]; this tower need not know."""


def hashed_rows(num_items: int, buckets: int) -> Array:
    """[V + 1, 2] int32 two rows in 1..buckets for each item_index, PAD for PAD; the same everywhere and always.

    The hash is SplitMix64's finalizer (Steele et al. 2014) of 2 * item_index and of 2 * item_index + 1.
    """
    x = np.arange(2 * (num_items + 1), dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    rows: Array = (x % np.uint64(buckets)).astype(np.int32).reshape(-1, 2) + np.int32(1)
    rows[PAD] = PAD
    return rows


class FeatureItemTower(IdItemTower):
    """An item's own vector + the mean vector of each feature's codes + a linear map of its numbers.

    All codes of an item, whatever the feature, form one weighted bag: a code of a feature with n codes weighs 1 / n.
    A step encodes each of its items once, at a cost of D times the codes that they have together.

    Features alone give an item a useful vector, too: in training the own vectors of some items are left out
    (DropoutNet, Volkovs et al. 2017). Those of cold items, never a target in training, always are: they have learnt
    nothing, or only to be far from everything.

    Args:
        num_items: V.
        dim: D.
        normalize: give vectors of length one.
        item_features: the arrays of schema.ITEM_FEATURES_FILE, "name.codes" [T] and "name.offsets" [V + 1] of bags,
            "name.values" [V, W] of numbers. A code that no item has gets no vector.
        hash_buckets: rows of the table of own vectors; None: one an item.
        sharded: see IdItemTower; of the own vectors' table.
        id_dropout: the share of a training step's items whose own vectors are left out.
    """

    warm: Tensor  # [V + 1] bool, part of the checkpoint: training decides which items are
    # Codes lie item after item; those of a feature begin where the codes of the features before it end.
    codes: Tensor  # [T] int32, which embedding_bag takes half the time for
    shares: Tensor  # [T] what each counts in its item's bag
    starts: Tensor  # [V + 2] codes of item_index i are starts[i]:starts[i + 1]; PAD has none
    values: Tensor  # [V + 1, W] numbers by item_index; PAD's are 0

    def __init__(
        self,
        num_items: int,
        dim: int,
        normalize: bool,
        item_features: Mapping[str, Array],
        hash_buckets: int | None,
        id_dropout: float,
        sharded: bool = False,
    ) -> None:
        super().__init__(num_items, dim, normalize, hash_buckets=hash_buckets, sharded=sharded)
        if not 0 <= id_dropout < 1:
            raise UserError(f"model.item_tower.id_dropout={id_dropout}; expected a share from 0 to less than 1")
        self.id_dropout = id_dropout
        self.register_buffer("warm", torch.ones(num_items + 1, dtype=torch.bool))
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
        has_own = self.warm[ids]
        if self.training and self.id_dropout > 0:
            has_own &= torch.rand(len(ids), device=ids.device) >= self.id_dropout
        vectors = self.own_vectors(ids.where(has_own, PAD))  # PAD's is zero, and learns nothing
        if self.has_bags:
            vectors = vectors + self._bag_vectors(ids)
        if self.has_numbers:
            vectors = vectors + self.linear(self.values[ids])
        vectors = vectors.view(*item_index.shape, vectors.shape[-1])
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def begin_training(self, target_counts: Tensor) -> None:
        """Told before training how often each item_index is a target in it, [V + 1]: those of none are cold."""
        self.warm = target_counts.to(self.warm.device) > 0

    def _bag_vectors(self, ids: Tensor) -> Tensor:
        """[N] item_index -> [N, D] the sum over features of their codes' mean vector."""
        start, length = self.starts[ids], self.starts[ids + 1] - self.starts[ids]
        stop = length.cumsum(0)
        begin = stop - length
        place = torch.repeat_interleave(start - begin, length)
        place += torch.arange(len(place), device=place.device)
        return F.embedding_bag(
            self.codes[place], self.bags.weight, begin.int(), mode="sum", per_sample_weights=self.shares[place],
            sparse=self.bags.sparse,
        )  # fmt: skip

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
