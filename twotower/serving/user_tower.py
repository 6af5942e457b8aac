"""The user tower in serving: an ONNX graph, its inputs and its output.

    history_vectors [B, L, H] float32  the history's item vectors, oldest first, zeros on the right
    newest [B] int64                   the position of each history's newest event
    event_inputs [B, L, K] int64       with event inputs: their codes
    occurrences [B, L] int64           with a pointer: how often the item of each event occurs in its history
    objective [B] int64                with objectives: code of what is asked for; 0: an event of any type
    now [B] int64                      with query time: seconds, as the input `time` has them; 0: at the newest event
    -> user_vector [B, D] float32
    -> pointer [B, L] float32          with a pointer: the logits of the events
    -> temperature [] float32          with a pointer: of the model's scores

Shapes: B histories, L history length of the longest, K event inputs, E events, V items, D embedding dim, H that of
items in histories.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

# Unless this is set, 1.31 reports usage to its makers, and keeps an id of the device in the home folder for it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

from twotower.core.arrays import Array, Floats
from twotower.core.batch import gather, history_positions
from twotower.core.event_codes import ANY_TYPE, AT_ONCE
from twotower.core.schema import PAD
from twotower.serving.histories import KnownEvents
from twotower.serving.parallel import in_parts
from twotower.serving.users import NONE, Users, distinct_bonuses

TOWER_VECTORS, TOWER_NEWEST, TOWER_CODES, TOWER_OUTPUT = "history_vectors", "newest", "event_inputs", "user_vector"
TOWER_COUNTS, TOWER_POINTER, TOWER_TEMPERATURE = "occurrences", "pointer", "temperature"  # with a pointer
TOWER_OBJECTIVE = "objective"  # with objectives
TOWER_NOW = "now"  # with query time

POSITIONS = 2**14  # history positions that the tower sees at once; bounds the memory of large requests

Feed = dict[str, Array]


def encode_histories(
    tower: Any, table: Floats, known: KnownEvents, max_length: int, threads: int = 1, objective: int = ANY_TYPE
) -> Users:
    """Return Q encoded histories; the vector of one without a known item is NaN.

    Args:
        tower: of `open_session`.
        table: [V, H] the items' vectors in histories.
        known: the histories' events, and when each is asked about.
        max_length: the newest events that are used.
        threads: that compute concurrently.
        objective: code of what is asked for.
    """
    wanted = [entry.name for entry in tower.get_inputs()]
    dim = tower.get_outputs()[0].shape[1]
    outputs = [output.name for output in tower.get_outputs()]
    vectors = np.full((len(known.length), dim), np.nan, dtype=np.float32)
    users = Users(vectors)
    if TOWER_POINTER in outputs:
        shape = len(known.length), int(known.length.max(initial=0).clip(max=max_length))
        users = Users(vectors, np.full(shape, NONE), np.zeros(shape, dtype=np.float32))
    full = np.flatnonzero(known.length)
    full = full[np.argsort(known.length[full], kind="stable")]  # similar lengths together: little padding
    end = known.end

    def encode(part: slice) -> None:
        rows = full[part]
        history, codes = padded(known.item_index, known.codes, end[rows], known.length[rows], max_length)
        now = None if known.now is None else known.now[rows]
        feed = padded_feed(table, history, codes, wanted, objective, now)
        vectors[rows], *pointer = tower.run(outputs, feed)
        if users.rows is not None and users.bonus is not None:
            length = history.shape[1]
            found = distinct_bonuses(pointer[0], float(pointer[1]), history)
            users.rows[rows, :length], users.bonus[rows, :length] = found

    in_parts(encode, len(full), POSITIONS // max_length, threads)
    return users


def padded(item_index: Array, codes: Array, end: Array, available: Array, max_length: int) -> tuple[Array, Array]:
    """Return histories [B, L] with PAD on the right, and their codes [B, L, K].

    Args:
        item_index: [E] of all histories, one after the other.
        codes: [E, K] of the event inputs.
        end, available, max_length: [B], [B] and the longest history kept, as in build_history.
    """
    position, valid = history_positions(end, available, max_length)
    rows = [gather(column, position, valid) for column in codes.T]
    inputs = np.stack(rows, axis=-1) if rows else np.zeros((*position.shape, 0), dtype=np.int64)
    return gather(item_index, position, valid), inputs


def padded_feed(
    table: Array,
    item_index: Array,
    codes: Array,
    wanted: Collection[str],
    objective: int = ANY_TYPE,
    now: Array | None = None,
) -> Feed:
    """Return the user tower's inputs.

    Args:
        table: [V, H] the items' vectors in histories.
        item_index: [B, L] histories padded with PAD on the right, none of them empty.
        codes: [B, L, K] of the event inputs.
        wanted: names of the tower's inputs. Codes, an objective and a time of the query are fed in any case, so that a
            tower without them refuses.
        objective: code of what is asked for.
        now: [B] times of the query; None: all AT_ONCE.
    """
    now = np.full(len(item_index), AT_ONCE) if now is None else now
    vectors = table[np.maximum(item_index - 1, 0)]
    valid = item_index != PAD
    vectors[~valid] = 0
    feed = {TOWER_VECTORS: vectors, TOWER_NEWEST: valid.sum(axis=1) - 1}
    if codes.shape[2]:
        feed[TOWER_CODES] = codes
    if TOWER_OBJECTIVE in wanted or objective != ANY_TYPE:
        feed[TOWER_OBJECTIVE] = np.full(len(item_index), objective)
    if TOWER_NOW in wanted or (now != AT_ONCE).any():
        feed[TOWER_NOW] = now
    if TOWER_COUNTS in wanted:
        feed[TOWER_COUNTS] = (item_index[:, :, None] == item_index[:, None, :]).sum(axis=2)
    return feed


def open_session(file: Path) -> Any:
    """Open an ONNX file; the session is thread-safe, and works after a fork. Raises onnxruntime's exceptions."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    options.intra_op_num_threads = 1  # the caller's: see serving.parallel
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
