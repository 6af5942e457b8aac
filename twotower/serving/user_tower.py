"""The user tower in serving: an ONNX graph, its inputs and its output.

    history_vectors [B, L, H] float32  the history's item vectors, oldest first, zeros on the right
    newest [B] int64                   the position of each history's newest event
    event_inputs [B, L, K] int64       with event inputs: their codes
    -> user_vector [B, D] float32

Shapes: B histories, L history length of the longest, K event inputs, E events, V items, D embedding dim, H that of
items in histories.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from twotower.core.arrays import Array, Floats
from twotower.core.batch import gather, history_positions
from twotower.core.schema import PAD
from twotower.serving.histories import KnownEvents
from twotower.serving.parallel import in_parts

TOWER_VECTORS, TOWER_NEWEST, TOWER_CODES, TOWER_OUTPUT = "history_vectors", "newest", "event_inputs", "user_vector"

POSITIONS = 2**14  # history positions that the tower sees at once; bounds the memory of large requests

Feed = dict[str, Array]


def encode_histories(tower: Any, table: Floats, known: KnownEvents, max_length: int, threads: int = 1) -> Floats:
    """Return [Q, D] the user vectors of Q histories; NaN for one without a known item.

    Args:
        tower: of `open_session`.
        table: [V, H] the items' vectors in histories.
        known: the histories' events.
        max_length: the newest events that are used.
        threads: that compute concurrently.
    """
    dim = tower.get_outputs()[0].shape[1]
    vectors = np.full((len(known.length), dim), np.nan, dtype=np.float32)
    full = np.flatnonzero(known.length)
    full = full[np.argsort(known.length[full], kind="stable")]  # similar lengths together: little padding
    end = known.end

    def encode(part: slice) -> None:
        rows = full[part]
        feed = tower_feed(table, known.item_index, known.codes, end[rows], known.length[rows], max_length)
        (vectors[rows],) = tower.run([TOWER_OUTPUT], feed)

    in_parts(encode, len(full), POSITIONS // max_length, threads)
    return vectors


def tower_feed(table: Array, item_index: Array, codes: Array, end: Array, available: Array, max_length: int) -> Feed:
    """Return histories as the user tower's inputs.

    Args:
        table: [V, H] the items' vectors in histories.
        item_index: [E] of all histories, one after the other.
        codes: [E, K] of the event inputs.
        end, available, max_length: [B], [B] and the longest history kept, as in build_history.
    """
    position, valid = history_positions(end, available, max_length)
    rows = [gather(column, position, valid) for column in codes.T]
    padded = np.stack(rows, axis=-1) if rows else np.zeros((*position.shape, 0), dtype=np.int64)
    return padded_feed(table, gather(item_index, position, valid), padded)


def padded_feed(table: Array, item_index: Array, codes: Array) -> Feed:
    """As `tower_feed`, for histories [B, L] padded with PAD on the right, none of them empty, and codes [B, L, K]."""
    vectors = table[np.maximum(item_index - 1, 0)]
    valid = item_index != PAD
    vectors[~valid] = 0
    feed = {TOWER_VECTORS: vectors, TOWER_NEWEST: valid.sum(axis=1) - 1}
    return feed | ({TOWER_CODES: codes} if codes.shape[2] else {})


def open_session(file: Path) -> Any:
    """Open an ONNX file; the session is thread-safe, and works after a fork. Raises onnxruntime's exceptions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.intra_op_num_threads = 1  # the caller's: see serving.parallel
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
