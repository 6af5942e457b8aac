"""The item tower in serving: an ONNX graph that gives items their vectors from id embeddings and features.

    id_embedding [N, O] float32  what the item itself has learnt, zero for new items
    item [T] int64               which of the N items a code is of  (these three where features have codes)
    codes [T] int64              of all features; a feature's codes begin at its offset
    shares [T] float32           a code's weight: 1 / n where the item has n codes of the feature
    values [N, W] float32        numbers, one feature after the other  (where features have numbers)
    -> item_vector [N, D] as candidates; history_vector [N, H], where items have other vectors in histories

A code that no training item had has no vector, as an unseen n-gram: it is left out, and the weights of the item's other
codes stay. id_embeddings.npy has `id_embedding`, and behind it the numbers that items.parquet does not have: those of
vector features.

Shapes: N items, T codes of all of them, O, W, D and H as above.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.core.arrays import Array, Floats
from twotower.features import Bags, Dense, Encoder, encode
from twotower.serving.user_tower import open_session

INPUTS = ("id_embedding", "item", "codes", "shares", "values")
ITEM_OUTPUT, HISTORY_OUTPUT = "item_vector", "history_vector"
ITEMS = 2**14  # encoded at once; bounds the memory


class ItemEncoder:
    """Computes items' vectors as the trained item tower does.

        encoder = ItemEncoder(bundle.file("item_tower.onnx"), features["items"], bundle.manifest["item_tower"])
        vectors, history_vectors = encoder.encode(columns, id_embeddings)

    Args:
        file: item_tower.onnx.
        encoders: the items' encoders by feature.
        facts: the manifest's "item_tower": see export.item_tower.item_tower_facts.

    Attributes:
        kept: the columns of id_embeddings.npy that hold a vector feature's numbers, counted from the end.
    """

    def __init__(self, file: Path, encoders: Mapping[str, Encoder], facts: Mapping[str, Any]) -> None:
        self._tower = open_session(file)
        self._encoders, self._bags, self._values = encoders, facts["bags"], facts["values"]
        self.kept: dict[str, slice] = {}
        self._kept_width = 0
        for entry in reversed([entry for entry in self._values if entry["kept"]]):
            stop = -self._kept_width or None
            self._kept_width += entry["width"]
            self.kept[entry["name"]] = slice(-self._kept_width, stop)

    def numbers(self, name: str, values: list[Any]) -> Floats:
        """Return [N, width] the encoded numbers of a feature's values [N]."""
        encoded = encode(self._encoders[name], values)
        assert isinstance(encoded, Dense)
        return encoded.values

    def encode(self, columns: pa.Table, id_embeddings: Floats) -> tuple[Floats, Floats]:
        """Return vectors [N, D] as candidates, and [N, H] in histories.

        Args:
            columns: [N] raw values, a column for each feature that is not kept.
            id_embeddings: [N, O + kept numbers] rows of id_embeddings.npy.
        """
        parts = [
            self._encode(columns.slice(start, ITEMS), np.asarray(id_embeddings[start : start + ITEMS]))
            for start in range(0, len(id_embeddings), ITEMS)
        ]
        vectors, history_vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
        return vectors, history_vectors

    def _encode(self, columns: pa.Table, rows: Floats) -> tuple[Floats, Floats]:
        feed: dict[str, Array] = {INPUTS[0]: rows[:, : rows.shape[1] - self._kept_width]}
        if self._bags:
            feed |= self._codes(columns)
        if self._values:
            names = [entry["name"] for entry in self._values]
            values = [
                rows[:, self.kept[name]] if name in self.kept else self.numbers(name, columns[name].to_pylist())
                for name in names
            ]
            feed["values"] = np.concatenate(values, axis=1)
        vectors = self._tower.run(None, feed)
        return vectors[0], vectors[-1]

    def _codes(self, columns: pa.Table) -> dict[str, Array]:
        """The features' codes, one feature after the other."""
        items, codes, shares = [], [], []
        for entry in self._bags:
            bags = encode(self._encoders[entry["name"]], columns[entry["name"]].to_pylist())
            assert isinstance(bags, Bags)
            length = np.diff(bags.offsets)
            has_vector = bags.codes < entry["size"]
            items.append(np.repeat(np.arange(len(length)), length)[has_vector])
            shares.append(np.repeat(1 / length, length)[has_vector])
            codes.append(bags.codes[has_vector].astype(np.int64) + entry["offset"])
        return {
            "item": np.concatenate(items),
            "codes": np.concatenate(codes),
            "shares": np.concatenate(shares).astype(np.float32),
        }
