"""An embedding table smaller than the catalogue: hashes pick two rows for each item. Shapes: V items, D dim, N ids."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.errors import UserError
from twotower.core.schema import PAD

Array = npt.NDArray[Any]


class HashedEmbedding(nn.Embedding):
    """The embedding of an item is the sum of two rows, picked by hashes of its item_index.

    Two items that share one row nearly always differ in the other (Weinberger et al. 2009, arXiv:0902.2206; several
    hashes: Svenstrup et al. 2017, arXiv:1709.03933). Takes 4 * hash_buckets * D + 8 * V bytes.

    >>> table = HashedEmbedding(num_items=1000, hash_buckets=50, dim=8)
    >>> table(torch.tensor([1, 999])).shape, table.weight.shape
    (torch.Size([2, 8]), torch.Size([51, 8]))

    Raises:
        UserError: the table would not be smaller than the catalogue.
    """

    rows: Tensor  # [V + 1, 2] int32 rows of each item_index

    def __init__(self, num_items: int, hash_buckets: int, dim: int) -> None:
        if not 0 < hash_buckets < num_items:
            raise UserError(
                f"model.item_tower.hash_buckets={hash_buckets}; expected a number from 1 to less than the {num_items} "
                "items, or null for one row an item"
            )
        super().__init__(hash_buckets + 1, dim, padding_idx=PAD)
        self.register_buffer("rows", torch.from_numpy(hashed_rows(num_items, hash_buckets)), persistent=False)

    def forward(self, item_index: Tensor) -> Tensor:
        """[N] item_index -> [N, D]."""
        rows = self.rows[item_index]
        return F.embedding_bag(rows, self.weight, mode="sum", padding_idx=PAD, sparse=self.sparse)


def hashed_rows(num_items: int, buckets: int) -> Array:
    """[V + 1, 2] int32 two rows in 1..buckets for each item_index, PAD for PAD; the same on every machine.

    The hash is SplitMix64's finalizer (Steele et al. 2014) of 2 * item_index and of 2 * item_index + 1.
    """
    x = np.arange(2 * (num_items + 1), dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    rows: Array = (x % np.uint64(buckets)).astype(np.int32).reshape(-1, 2) + np.int32(1)
    rows[PAD] = PAD
    return rows
