"""A toy user tower that NumPy can follow, and what a retriever over it must answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from twotower.serving import bundle_format as fmt
from twotower.serving.user_tower import TOWER_CODES, TOWER_NEWEST, TOWER_OUTPUT, TOWER_VECTORS

MAX_LENGTH = 4
DIM = 8
NOTHING = {"time_zone": "UTC", "event_types": [], "input_types": [], "events": {}}  # features without event features


def toy_tables(sizes: Mapping[str, int], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """A vector for each code of each event input; none for 0, which stands where there is no event, too."""
    random = np.random.default_rng([seed, 1])
    return [np.concatenate([np.zeros((1, DIM)), random.normal(size=(n - 1, DIM))]).astype("f4") for n in sizes.values()]


def toy_tower(dim: int, tables: Sequence[np.ndarray[Any, Any]] = ()) -> Any:
    """The sum of the events' vectors, each weighted with its position from 1: order and truncation show.

    An event's vector is its item's and those of its codes, added up. What lies behind the newest event does not count.
    """
    constants = {"one": np.array(1), "zero": np.array(0), "axis": np.array([1]), "column": np.array([1])}
    constants |= {"last": np.array([2]), "offset": np.array(1)}
    vectors = helper.make_tensor_value_info(TOWER_VECTORS, TensorProto.FLOAT, ["batch", "length", dim])
    inputs = [vectors, helper.make_tensor_value_info(TOWER_NEWEST, TensorProto.INT64, ["batch"])]
    nodes = [helper.make_node("Identity", [TOWER_VECTORS], ["events_0"])]
    if tables:
        shape = ["batch", "length", len(tables)]
        inputs.append(helper.make_tensor_value_info(TOWER_CODES, TensorProto.INT64, shape))
    for k, codes in enumerate(tables):
        constants |= {f"codes_{k}": codes, f"input_{k}": np.array(k)}
        nodes += [
            helper.make_node("Gather", [TOWER_CODES, f"input_{k}"], [f"code_{k}"], axis=2),
            helper.make_node("Gather", [f"codes_{k}", f"code_{k}"], [f"vector_{k}"]),
            helper.make_node("Add", [f"events_{k}", f"vector_{k}"], [f"events_{k + 1}"]),
        ]
    nodes += [
        helper.make_node("Shape", [TOWER_VECTORS], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["positions"]),
        helper.make_node("Unsqueeze", [TOWER_NEWEST, "column"], ["newest_column"]),
        helper.make_node("LessOrEqual", ["positions", "newest_column"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["counts_float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["positions", "offset"], ["places"]),
        helper.make_node("Cast", ["places"], ["float_places"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["counts_float", "float_places"], ["flat_weights"]),
        helper.make_node("Unsqueeze", ["flat_weights", "last"], ["weights"]),
        helper.make_node("Mul", [f"events_{len(tables)}", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], [TOWER_OUTPUT], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        inputs,
        [helper.make_tensor_value_info(TOWER_OUTPUT, TensorProto.FLOAT, ["batch", dim])],
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


def reseal(path: Path, *more: str, **changes: Any) -> None:
    """Write the manifest anew, with right hashes and checksum: only the files' own contents can be wrong.

    `more` are files that the bundle gains, `changes` facts.
    """
    manifest = json.loads((path / fmt.MANIFEST_FILE).read_text())
    files = {**manifest.pop("files"), **dict.fromkeys(more)}
    del manifest["checksum"]
    fmt.write_manifest(path, fmt.seal(path, manifest | changes, files))
