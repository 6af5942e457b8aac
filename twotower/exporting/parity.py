"""The parity gate: an export succeeds only if the exported files compute what the trained model computes.

Three checks: the ONNX user tower and item tower against the torch towers, and the index's results against exact search
with the torch model's vectors. serving.verify then replays the results through the finished bundle.

Shapes: V items, Q histories, K event inputs, k results each, D embedding dim, H that of items in histories.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower.core.arrays import Floats, Ints, evenly
from twotower.core.errors import UserError
from twotower.core.event_codes import ANY_TYPE, TIME
from twotower.core.schema import ITEM_ID
from twotower.exporting.vectors import encode_users, join_histories
from twotower.model.two_tower import TwoTower
from twotower.runs.histories import History
from twotower.serving.answers import Recommendations
from twotower.serving.bundle import has_unit_length
from twotower.serving.bundle_format import COSINE
from twotower.serving.exact_search import exact_top_k
from twotower.serving.index import ItemIndex
from twotower.serving.item_tower import ItemEncoder
from twotower.serving.user_tower import encode_histories, open_session
from twotower.serving.users import Users
from twotower.serving.verify import compare

K = 20
TOLERANCE = 1e-4  # of a vector's component
SAMPLE = 4096  # items that are compared
ROWS = 2**16  # vectors checked at once


def require_parity(tower: str, difference: float) -> None:
    """Raise UserError for a difference above TOLERANCE, or NaN, of an exported tower's vectors."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"the {tower} differs from the torch one by {difference:.1e}, more than {TOLERANCE:.1e}; nothing was "
            "exported. Please report it with the run's config.yaml"
        )


def require_vectors(name: str, vectors: Floats, similarity: str) -> None:
    """Raise UserError for vectors [n, D] with NaN or inf, or with cosine similarity of another length than one."""
    for start in range(0, len(vectors), ROWS):
        if not np.isfinite(vectors[start : start + ROWS]).all():
            raise UserError(f"the {name} contain NaN or inf: training diverged; train again")
    if similarity == COSINE and not has_unit_length(vectors):
        raise UserError(f"the {name} have other lengths than one, though model.normalize is true")


def user_tower_difference(
    model: TwoTower,
    path: Path,
    histories: Sequence[History],
    table: Floats,
    input_sizes: Mapping[str, int],
    max_length: int,
) -> float:
    """Return the largest difference of a vector's component, or of a bonus, between the ONNX file and the torch model.

    Compared for `histories`, in one batch and one by one, and for random histories of every size: a single item, the
    full length, batches of one length and of many, with codes from the whole range of each event input, for each
    objective and at times of the query.

    Args:
        model: in torch.
        path: the ONNX user tower.
        histories: of the validation data.
        table: [V, H] the items' vectors in histories.
        input_sizes: the number of codes of each event input.
        max_length: of histories.
    """
    random = np.random.default_rng(0)
    lengths = [[1], [max_length], [1, 1], [max_length] * 3, [1, max_length], [*range(1, min(max_length, 64) + 1)]]
    made = [
        [History(random.integers(1, len(table) + 1, n), _random_codes(random, n, input_sizes)) for n in row]
        for row in lengths
    ]
    session = open_session(path)
    difference = 0.0
    types = 0 if model.objective is None else model.objective.num_types
    if model.query_time:
        made += [asked_later(batch, list(input_sizes)) for batch in made]
    batches = [(batch, ANY_TYPE) for batch in [list(histories), *([history] for history in histories)]]
    for batch, objective in [*batches, *itertools.product(made, range(1 + types))]:
        users = encode_histories(session, table, join_histories(batch), max_length, objective=objective)
        expected = encode_users(model, batch, max_length, objective)
        gaps = [np.abs(users.vectors - expected.vectors).max()]
        if users.rows is not None and users.bonus is not None and expected.bonus is not None:
            gaps.append(np.abs(users.bonus - expected.bonus[:, : users.rows.shape[1]]).max())
        gap = float(max(gaps)) if np.isfinite(gaps).all() else float("inf")
        difference = max(difference, gap)
    return difference


def asked_later(histories: Sequence[History], inputs: Sequence[str]) -> list[History]:
    """Ask about every other history at a time after its newest event: a second, two, four, up to years later."""
    delays = [2 ** (row // 2 % 28) if row % 2 == 0 else None for row in range(len(histories))]
    newest = [int(history.codes[-1, inputs.index(TIME)]) for history in histories]
    return [
        history if delay is None else history._replace(now=time + delay)
        for history, time, delay in zip(histories, newest, delays, strict=True)
    ]


def _random_codes(random: np.random.Generator, length: int, sizes: Mapping[str, int]) -> Ints:
    """[length, K] codes of a history; its newest event comes seconds, days or years after the others."""
    codes = random.integers(0, list(sizes.values()), (length, len(sizes)))
    if TIME in sizes:
        codes[:, list(sizes).index(TIME)] = 2**28 - np.sort(np.exp2(random.uniform(0, 27, length)))[::-1]
    return codes


def item_tower_difference(
    encoder: ItemEncoder, items: pa.Table, id_embeddings: Floats, vectors: Floats, history_vectors: Floats
) -> float:
    """Return the largest difference between a component of the ONNX file's item vectors and of the torch model's.

    Args:
        encoder: of the written files.
        items: [V] the items' raw values.
        id_embeddings: [V, any] of ID_EMBEDDINGS_FILE.
        vectors, history_vectors: [V, D] and [V, H] the torch model's.
    """
    rows = evenly(len(vectors), SAMPLE)
    computed = encoder.encode(items.take(pa.array(rows)), id_embeddings[rows])
    gaps = [np.abs(a - b[rows]).max() for a, b in zip(computed, (vectors, history_vectors), strict=True)]
    return float(max(gaps)) if np.isfinite(gaps).all() else float("inf")


def golden_answers(
    item_ids: pa.ChunkedArray,
    histories: Sequence[History],
    users: Users,
    vectors: Floats,
    inputs: Sequence[str],
    index: ItemIndex,
) -> tuple[dict[str, Any], float]:
    """Return golden.json and the share of its results that `index` finds.

    Args:
        item_ids: [V].
        histories: Q golden ones.
        users: Q of them, encoded by the torch model.
        vectors: [V, D] the torch model's.
        inputs: names of the K event inputs.
        index: over `vectors`.

    Raises:
        UserError: the index returns other scores than exact search.
    """
    rows, scores = exact_top_k(users, vectors, min(K, len(vectors)))
    index_scores, index_rows = index.search(users, rows.shape[1])
    compared = compare(Recommendations(index_rows.tolist(), index_scores), Recommendations(rows.tolist(), scores))
    if compared.is_wrong.any():
        raise UserError(
            f"the index gives {int(compared.is_wrong.sum())} histories other scores than exact search; nothing was "
            "exported. Please report it with the run's config.yaml"
        )
    ids = item_ids.combine_chunks()
    golden = {
        "k": rows.shape[1],
        "histories": [_golden_history(history, ids, inputs) for history in histories],
        **({"now": [history.now for history in histories]} if any(history.now for history in histories) else {}),
        "ids": [ids.take(pa.array(row)).to_pylist() for row in rows],
        "scores": scores.tolist(),
    }
    return golden, float(compared.recall.mean())


def _golden_history(history: History, ids: pa.Array, inputs: Sequence[str]) -> list[Any]:
    """Item ids; with event inputs, {"item_id": id, "codes": {input: code}} for each event."""
    items: list[Any] = ids.take(pa.array(history.item_index - 1)).to_pylist()
    if not inputs:
        return items
    codes = [dict(zip(inputs, row, strict=True)) for row in history.codes.tolist()]
    return [{ITEM_ID: item, "codes": row} for item, row in zip(items, codes, strict=True)]
