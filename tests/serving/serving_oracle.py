"""A toy user tower that NumPy can follow, and what a retriever over it must answer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twotower.serving import bundle as fmt

MAX_LENGTH = 4
DIM = 8


def toy_tower(vectors: np.ndarray[Any, Any]) -> Any:
    """The sum of the items' vectors, each weighted with its position from 1: order and truncation show."""
    table = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    constants = {"table": table, "one": np.array(1), "axis": np.array([1]), "column": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", fmt.TOWER_INPUT], ["items"]),
        helper.make_node("Shape", [fmt.TOWER_INPUT], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Add", ["length", "one"], ["end"]),
        helper.make_node("Range", ["one", "end", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["positions", "column"], ["weights"]),
        helper.make_node("Cast", ["weights"], ["float_weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["items", "float_weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], [fmt.TOWER_OUTPUT], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(fmt.TOWER_INPUT, TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info(fmt.TOWER_OUTPUT, TensorProto.FLOAT, ["batch", vectors.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def toy_user(vectors: np.ndarray[Any, Any], history: Sequence[int]) -> np.ndarray[Any, Any]:
    """The same by hand, for a history of item_index."""
    return np.sum([(t + 1) * vectors[i - 1] for t, i in enumerate(history)], axis=0)


def naive_answers(
    vectors: np.ndarray[Any, Any], history: Sequence[int], k: int
) -> tuple[list[int], np.ndarray[Any, Any]]:
    """item_index and scores of the best items, by scoring each."""
    scores = vectors.astype(np.float64) @ toy_user(vectors, history).astype(np.float64)
    best = sorted(range(len(vectors)), key=lambda row: -scores[row])[:k]
    return [row + 1 for row in best], scores[best]


def seal(path: Path, **changes: Any) -> None:
    """Write the manifest anew, with right hashes and checksum: only the files' own contents can be wrong."""
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text()) | changes
    manifest["files"] = {name: fmt.sha256(path / name) for name in fmt.FILES}
    manifest["checksum"] = fmt.checksum(manifest)
    (path / fmt.MANIFEST_FILE).write_text(json.dumps(manifest))
