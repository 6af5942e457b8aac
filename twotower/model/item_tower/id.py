"""Item tower of learned embeddings, one for each item_index. Shapes: V items, D embedding dim, N ids."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.model.item_tower.hashing import HashedEmbedding
from twotower.model.sharded_embedding import ShardedEmbedding

Array = npt.NDArray[Any]


class IdItemTower(nn.Module):
    """One learned vector an item; the table takes 4 * V * D bytes.

    >>> tower = IdItemTower(num_items=100, dim=8, normalize=True)
    >>> tower(torch.tensor([[1, 2, 0]])).norm(dim=-1).round()  # 0 is PAD
    tensor([[1., 1., 0.]], grad_fn=<RoundBackward0>)

    Args:
        num_items: V; indices run from 1 to V, 0 is PAD (the zero vector).
        dim: D.
        normalize: scale vectors to length one, for cosine similarity.
        item_features: not used; every item tower gets them.
        hash_buckets: rows of a smaller table that items share, see HashedEmbedding; None: one row an item.
        sharded: distribute the table's rows over the processes, see ShardedEmbedding.
    """

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
        self.num_items = num_items
        self.normalize = normalize
        if sharded:
            if hash_buckets is not None:
                raise UserError("model.item_tower: expected sharded=true or hash_buckets=N, not both")
            self.embedding: Any = ShardedEmbedding(num_items + 1, dim, std=dim**-0.5)
            return
        if hash_buckets is None:
            self.embedding, summands = nn.Embedding(num_items + 1, dim, padding_idx=PAD), 1
        else:
            self.embedding, summands = HashedEmbedding(num_items, hash_buckets, dim), 2
        with torch.no_grad():
            self.embedding.weight.normal_(std=(summands * dim) ** -0.5)  # vectors of about length one
            self.embedding.weight[PAD].zero_()

    def forward(self, item_index: Tensor) -> Tensor:
        """[...] item_index -> [..., D] item vectors."""
        vectors = self.id_embeddings(item_index.flatten()).view(*item_index.shape, self.embedding.embedding_dim)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def id_embeddings(self, item_index: Tensor) -> Tensor:
        """[N] item_index -> [N, D] embeddings before normalisation, and without features."""
        vectors: Tensor = self.embedding(item_index)
        return vectors

    def begin_training(self, target_counts: Tensor) -> None:
        """Receive, before training, how often each item_index is a target [V + 1]; not used by this tower."""
