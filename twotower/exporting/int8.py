"""The user tower with 8-bit weights, and its results beside the float32 tower's.

Shapes: Q queries, k answers each, V items, D embedding dim, H that of items in histories.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

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


def tower_results(
    path: Path, histories: Sequence[History], table: Floats, vectors: Floats, k: int, max_length: int
) -> Ints:
    """Return [Q, k] the rows that the tower at `path` finds by exact search.

    Args:
        path: an ONNX user tower.
        histories: Q of them.
        table: [V, H] vectors of items in histories.
        vectors: [V, D] of candidates.
        k: results.
        max_length: of histories.
    """
    users = encode_histories(open_session(path), table, join_histories(histories), max_length)
    return exact_top_k(users, vectors, k)[0]


def agreement(rows: Ints, expected: Ints) -> float:
    """Return the share of the expected rows [Q, k] that is among the rows [Q, k] of the same query."""
    return float((rows[:, :, None] == expected[:, None, :]).any(axis=1).mean())
