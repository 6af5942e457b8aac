"""A toy user tower that NumPy can follow, and what a retriever over it must answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twotower.serving import bundle as fmt

MAX_LENGTH = 4
DIM = 8
NOTHING = {"time_zone": "UTC", "event_types": [], "input_types": [], "events": {}}  # features without event features


def toy_tables(sizes: Mapping[str, int], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """A vector for each code of each event input; none for 0, which stands where there is no event, too."""
    random = np.random.default_rng([seed, 1])
    return [np.concatenate([np.zeros((1, DIM)), random.normal(size=(n - 1, DIM))]).astype("f4") for n in sizes.values()]


def toy_tower(vectors: np.ndarray[Any, Any], tables: Sequence[np.ndarray[Any, Any]] = ()) -> Any:
    """The sum of the events' vectors, each weighted with its position from 1: order and truncation show.

    An event's vector is its item's and those of its codes, added up.
    """
    table = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
    constants = {"table": table, "one": np.array(1), "axis": np.array([1]), "column": np.array([1])}
    nodes = [helper.make_node("Gather", ["table", fmt.TOWER_INPUT], ["events_0"])]
    inputs = [helper.make_tensor_value_info(fmt.TOWER_INPUT, TensorProto.INT64, ["batch", "length"])]
    if tables:
        shape = ["batch", "length", len(tables)]
        inputs.append(helper.make_tensor_value_info(fmt.TOWER_CODES, TensorProto.INT64, shape))
    for k, codes in enumerate(tables):
        constants |= {f"codes_{k}": codes, f"input_{k}": np.array(k)}
        nodes += [
            helper.make_node("Gather", [fmt.TOWER_CODES, f"input_{k}"], [f"code_{k}"], axis=2),
            helper.make_node("Gather", [f"codes_{k}", f"code_{k}"], [f"vector_{k}"]),
            helper.make_node("Add", [f"events_{k}", f"vector_{k}"], [f"events_{k + 1}"]),
        ]
    nodes += [
        helper.make_node("Shape", [fmt.TOWER_INPUT], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Add", ["length", "one"], ["end"]),
        helper.make_node("Range", ["one", "end", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["positions", "column"], ["weights"]),
        helper.make_node("Cast", ["weights"], ["float_weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"events_{len(tables)}", "float_weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], [fmt.TOWER_OUTPUT], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        inputs,
        [helper.make_tensor_value_info(fmt.TOWER_OUTPUT, TensorProto.FLOAT, ["batch", vectors.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def toy_user(
    vectors: np.ndarray[Any, Any],
    history: Sequence[int],
    codes: Sequence[Sequence[int]] = (),
    tables: Sequence[np.ndarray[Any, Any]] = (),
) -> np.ndarray[Any, Any]:
    """The same by hand, for a history of item_index with the codes of each event."""
    total = np.zeros(vectors.shape[1])
    for t, item in enumerate(history):
        event = vectors[item - 1].astype(np.float64)
        for k, table in enumerate(tables):
            event = event + table[codes[t][k]]
        total += (t + 1) * event
    return total


def naive_answers(
    vectors: np.ndarray[Any, Any],
    history: Sequence[int],
    k: int,
    codes: Sequence[Sequence[int]] = (),
    tables: Sequence[np.ndarray[Any, Any]] = (),
) -> tuple[list[int], np.ndarray[Any, Any]]:
    """item_index and scores of the best items, by scoring each."""
    scores = vectors.astype(np.float64) @ toy_user(vectors, history, codes, tables)
    best = sorted(range(len(vectors)), key=lambda row: -scores[row])[:k]
    return [row + 1 for row in best], scores[best]


def seal(path: Path, **changes: Any) -> None:
    """Write the manifest anew, with right hashes and checksum: only the files' own contents can be wrong."""
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text()) | changes
    manifest["files"] = {name: fmt.sha256(path / name) for name in fmt.FILES}
    manifest["checksum"] = fmt.checksum(manifest)
    (path / fmt.MANIFEST_FILE).write_text(json.dumps(manifest))
