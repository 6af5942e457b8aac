"""Items' vectors from what they have learnt themselves and from their features, by item_tower.onnx; needs no torch.

    own [N, O] float32     what the items have learnt themselves, zero for new ones
    item [T] int64         which of the N items a code is of   (these three where the tower has bags of codes)
    codes [T] int64        of all features; a feature's codes begin at its offset
    shares [T] float32     what a code counts: 1 / n where the feature has n for this item
    values [N, W] float32  numbers, one feature after the other  (where the tower has numbers)
    -> item_vector [N, D] what answers; history_vector [N, H], where items have other vectors in histories

A code beyond those of the training's catalogue has no vector, as an n-gram that no item had: it is left out, and the
others' share stays what it is. own_vectors.npy has `own`, and after it the numbers that items.parquet does not keep:
those of vectors.

Shapes: N items, T codes of all of them, O, W, D and H as above.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.features import Bags, Dense, Encoder, encode
from twotower.serving.user_tower import open_session

INPUTS = ("own", "item", "codes", "shares", "values")
ITEM_OUTPUT, HISTORY_OUTPUT = "item_vector", "history_vector"
ITEMS = 2**14  # encoded at once; bounds the memory

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class ItemEncoder:
    """Makes items' vectors as the item tower would.

    Args:
        file: item_tower.onnx.
        encoders: the items' encoders by feature.
        facts: the manifest's "item_tower": see export.item_tower.item_tower_facts.
    """

    def __init__(self, file: Path, encoders: Mapping[str, Encoder], facts: Mapping[str, Any]) -> None:
        self._tower = open_session(file)
        self._encoders, self._bags, self._values = encoders, facts["bags"], facts["values"]

    @property
    def kept(self) -> list[str]:
        """Names of the features whose numbers lie behind the own vectors."""
        return [entry["name"] for entry in self._values if entry["kept"]]

    def kept_slice(self, name: str) -> slice:
        """Where the numbers of such a feature lie behind the own vectors; counted from the end."""
        entries = [entry for entry in self._values if entry["kept"]]
        after = [entry["name"] for entry in entries].index(name)
        stop = -sum(entry["width"] for entry in entries[after + 1 :])
        return slice(stop - entries[after]["width"], stop or None)

    def numbers(self, name: str, values: list[Any]) -> Floats:
        """[N, width] the numbers that a feature's values [N] are encoded as."""
        encoded = encode(self._encoders[name], values)
        assert isinstance(encoded, Dense)
        return encoded.values

    def encode(self, columns: pa.Table, own: Floats) -> tuple[Floats, Floats]:
        """Vectors [N, D] as candidates, and [N, H] in histories.

        Args:
            columns: [N] raw values, a column for each feature that is not kept.
            own: [N, O + kept numbers] rows of own_vectors.npy.
        """
        parts = [
            self._encode(columns.slice(start, ITEMS), np.asarray(own[start : start + ITEMS]))
            for start in range(0, len(own), ITEMS)
        ]
        vectors, history_vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
        return vectors, history_vectors

    def _encode(self, columns: pa.Table, own: Floats) -> tuple[Floats, Floats]:
        width = sum(entry["width"] for entry in self._values if entry["kept"])
        feed: dict[str, Array] = {"own": own[:, : own.shape[1] - width]}
        if self._bags:
            feed |= self._codes(columns)
        if self._values:
            values = [
                own[:, self.kept_slice(entry["name"])]
                if entry["kept"]
                else self.numbers(entry["name"], columns[entry["name"]].to_pylist())
                for entry in self._values
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
