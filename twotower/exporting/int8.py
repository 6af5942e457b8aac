"""The user tower with 8-bit weights, and its recall beside the float32 tower.

Shapes: Q queries, k answers each, V items, D embedding dim, H that of items in histories.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.core.arrays import Floats, Ints
from twotower.exporting.vectors import join_histories
from twotower.runs.histories import History
from twotower.serving.exact_search import exact_top_k
from twotower.serving.user_tower import encode_histories, open_session


def quantise_tower(source: Path, target: Path) -> None:
    """Write the ONNX user tower `source` with 8-bit weights to `target`; activations are quantised dynamically."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a preprocessing that these small graphs do not need
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.root.setLevel(level)


def tower_recall(
    path: Path,
    histories: Sequence[History],
    table: Floats,
    vectors: Floats,
    exact: tuple[Ints, Floats],
    target: Ints,
    max_length: int,
) -> dict[str, Any]:
    """Measure how many of the float32 tower's results the tower at `path` finds, by exact search.

    Args:
        path: an ONNX user tower.
        histories: Q of them.
        table: [V, H] vectors of items in histories.
        vectors: [V, D] of candidates.
        exact: rows and scores [Q, k] of the float32 tower's results.
        target: [Q] the row of the next item, -1 where that is unknown.
        max_length: of histories.

    Returns:
        {"recall": against the float32 tower's results, "label_recall": of the next item, "float32_label_recall":
        the same for the float32 tower, "megabytes"}.
    """
    users = encode_histories(open_session(path), table, join_histories(histories), max_length)
    rows, _ = exact_top_k(users, vectors, exact[0].shape[1])
    hits = (rows[:, :, None] == exact[0][:, None, :]).any(axis=2)
    return {
        "recall": float(hits.mean()),
        "label_recall": float((rows == target[:, None]).any(axis=1).mean()),
        "float32_label_recall": float((exact[0] == target[:, None]).any(axis=1).mean()),
        "megabytes": path.stat().st_size / 1e6,
    }
